"""Tell by its name what a column of a table, or a key of a JSON object, holds: the photo's file, tags, or neither."""

from __future__ import annotations

import re
from collections.abc import Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PHOTO_WORDS = r"(image|img|photo|picture|pic|file|full|rel|relative|local|original)?"
_FILE = re.compile(_PHOTO_WORDS + r"(file|path|image|img|photo|picture|uri|url)s?(names?|paths?|files?|uris?|urls?)?")
_NUMBER = re.compile(r"(image|img|photo|picture|file|row|sample|item)?(id|ids|name|names|index|idx|key|no|nr|number)")
_NAMELESS = re.compile(r"(unnamed:?\d+|#)?")
_TAG = re.compile(r"(image)?(tag|label|class|categor(y|ie)|classe|clase|klasse|kategorie)(es|s|n)?(names?)?\d*")
_FILE_ABROAD = _words(
    "datei dateiname dateipfad bild bilddatei bildname foto fotos fotoname fichier nomfichier nomdufichier chemin "
    "imagen archivo nombrearchivo nombredearchivo fichero ruta immagine immagini nomefile arquivo imagem nomedoarquivo "
    "bestand bestandsnaam afbeelding plik zdjęcie filnamn файл имяфайла изображение фото картинка путь "
    "文件 文件名 图片 图像 图片名 檔名 圖片 ファイル ファイル名 画像 画像名 파일 파일명 이미지 사진"
)
_TAG_ABROAD = _words(
    "species breed target targets object objects annotation annotations choice choices "
    "klassenname etikett etiketten schlagwort schlagworte schlagwörter inhalt sorte sorten étiquette étiquettes "
    "etiqueta etiquetas catégorie catégories categoría categorías categoria categorias etichetta etichette classi "
    "rótulo rótulos etykieta klasa тег теги метка метки класс классы категория "
    "标签 标记 类别 分类 類別 標籤 ラベル タグ クラス カテゴリ 라벨 레이블 태그 클래스"
)
_SIZES = _words(
    "width height w h depth channels size imagewidth imageheight breite höhe area xmin ymin xmax ymax x1 y1 x2 y2 x y "
    "x0 y0 left top right bottom cx cy xc yc xcenter ycenter bbox latitude longitude lat lon filesize classid labelid "
    "categoryid tagid difficult truncated occluded iscrowd"
)
_SCORES = _words("score scores confidence conf prob probability")
_ASIDE = _words(
    "split subset set fold partition usage source author license date time timestamp user annotator comment comments "
    "note notes remark remarks bemerkung md5 sha1 sha256 hash mask maskpath maskfile segmentation pose rotation"
)
SPLIT_WORDS = _words("train training val valid validation dev test testing trainval unassigned")
"""Words, in small letters, of a column that says which split a row is of."""


def _plain(name: str) -> str:
    """A column's name in small letters without separators: ``Image_File Name`` is ``imagefilename``."""
    return re.sub(r"[\s_.-]+", "", name.lower().lstrip("# "))


def names_file(name: str) -> bool:
    """Whether a column of this name holds photos' files without doubt."""
    plain = _plain(name)
    return bool(_FILE.fullmatch(plain)) or plain in _FILE_ABROAD


def names_address(name: str) -> bool:
    """Whether a column of this name holds addresses, which need not end like the files here."""
    return _plain(name).endswith(("url", "urls", "uri", "uris"))


def names_number(name: str) -> bool:
    """Whether a column of this name holds numbers or names of photos, such as ``id``; it may lead to their files."""
    return bool(_NUMBER.fullmatch(_plain(name)))


def names_tags(name: str) -> bool:
    """Whether a column of this name holds names of classes."""
    plain = _plain(name)
    return bool(_TAG.fullmatch(plain)) or plain in _TAG_ABROAD


def names_nothing(name: str) -> bool:
    """Whether a column has no name of its own: none, or what pandas writes instead (``Unnamed: 0``)."""
    return bool(_NAMELESS.fullmatch(_plain(name)))


def names_size(name: str) -> bool:
    """Whether a column of this name holds a size, a coordinate or another number that is no class."""
    return _plain(name) in _SIZES


def names_score(name: str) -> bool:
    """Whether a column of this name says how sure a tag is."""
    return _plain(name) in _SCORES


def names_other(name: str) -> bool:
    """Whether a column of this name is about a row and not about what is in the photo, such as ``split``."""
    return _plain(name) in _ASIDE


def file_name_rank(name: str) -> int:
    """How likely a column of this name holds the photos' files: 0 most, 2 least."""
    return 0 if names_file(name) else 1 if names_number(name) else 2


def choose_key(keys: Sequence[str], rank: Sequence[int]) -> str | None:
    """The key of the lowest rank, the first of several; None where there is none."""
    pairs = sorted(zip(rank, range(len(keys)), strict=True))
    return keys[pairs[0][1]] if pairs else None
