"""The report in headless Chromium: filters, links, keys, review, names and contrast; no complaint on the console."""

import itertools
import json
import time

import pytest

from tests.report.browser import PHONE, WIDE, browser, complaints, missing_browser, show_as
from tests.report.pages import page, results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser())),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page(results(folder / "photos", 8, 4)).write(folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def driver(folder):
    with browser(folder) as opened:
        yield opened


@pytest.fixture
def opened(driver, folder):
    """The page, loaded anew without decisions; it must not have complained when the test ends."""
    show_as(driver)
    driver.get(f"file://{folder}/report.html")
    driver.execute_script("localStorage.clear(); decisions.clear(); count();")
    complaints(driver)
    yield driver
    assert complaints(driver) == []


def choose(driver, **filters):
    """Set filters as a user does, and return the number of photos that the page says it shows."""
    driver.execute_script(
        """for (const [name, value] of Object.entries(arguments[0])) form.elements[name].value = value;
        form.dispatchEvent(new Event("input", { bubbles: true }));""",
        filters,
    )
    return shown(driver)


def shown(driver):
    text = driver.find_element("id", "count").text
    return 0 if text.startswith("No photo") else int(text.split(" of ")[0])


def tiles(driver):
    return [tile.text.splitlines()[0] for tile in driver.find_elements("css selector", ".tile")]


def keys(driver, *names):
    """Press keys in the page, where the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in names:
        ActionChains(driver).send_keys(getattr(Keys, name, name)).perform()


def records(driver):
    return driver.execute_script("return DATA.photos")


def test_every_filter_shows_what_it_says(opened):
    photos = records(opened)
    assert shown(opened) == len(photos) == 12
    assert choose(opened, split="test") == 4 and all(name.startswith("test") for name in tiles(opened))
    assert choose(opened, split="train", stage="pseudo masks") == 8
    assert choose(opened, split="test", stage="pseudo masks") == 0  # no test photo has pseudo masks
    options = opened.execute_script("return [...form.elements.stage.options].map((option) => option.value)")
    for stage in options[1:]:
        assert choose(opened, split="", stage=stage) == sum(stage in photo["layers"] for photo in photos)
    assert choose(opened, stage="WSOD", label="1") == 6  # every second photo has the tag
    kinds = opened.execute_script("return DATA.kinds")
    for number, kind in enumerate(kinds):
        expected = sum(any(box[6] == number for box in photo["layers"]["WSOD"]["b"]) for photo in photos)
        assert choose(opened, split="", label="", stage="WSOD", kind=kind) == expected
    missed = sum(bool(photo["layers"]["WSOD"]["m"]) for photo in photos)
    assert choose(opened, kind="missed") == missed > 0
    assert choose(opened, kind="", stage="", text="train_0003") == 1
    opened.find_element("css selector", "#filters [type=reset]").click()
    assert shown(opened) == 12


def test_overlays_follow_the_filters(opened):
    def boxes():
        return opened.execute_script("return document.querySelectorAll('.tile .shape:not(.missed)').length")

    choose(opened, split="test", stage="WSOD", label="", kind="", text="")
    assert boxes() == 2 + 4 - 1  # a box on two photos, two on one, none on the third ...: the page's own numbers
    assert choose(opened, label="1") and boxes() == 2
    choose(opened, label="", kind="part")
    assert boxes() == 2 and opened.execute_script("return document.querySelectorAll('.tile .missed').length") == 0


def test_order_is_by_doubt_or_by_name(opened):
    choose(opened, split="train", order="name")
    assert tiles(opened) == sorted(tiles(opened))
    choose(opened, order="doubt")
    doubts = {photo["i"]: photo["d"] for photo in records(opened)}
    order = [doubts[name] for name in tiles(opened)]
    assert order == sorted(order, reverse=True) and order[0] > order[-1]


def test_every_link_leads_somewhere(opened):
    addresses = opened.execute_script("return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert len(addresses) > 40 and all(address.startswith("#") for address in addresses)
    for address in sorted(set(addresses)):
        if "?" not in address:
            assert opened.find_element("id", address[1:])
            continue
        opened.execute_script(
            "viewer.open && viewer.close(); location.hash = ''; location.hash = arguments[0]", address
        )
        opened.execute_script("followAddress()")
        wanted = dict(pair.split("=") for pair in address.split("?")[1].split("&"))
        state = opened.execute_script("return state")
        for name, value in wanted.items():
            if name == "photo":
                assert value in opened.find_element("id", "viewer-title").text
            else:
                assert state[name] == value.replace("%20", " ")
        assert opened.execute_script("return form.elements.stage.value") == state["stage"]


def test_a_click_on_a_number_of_errors_shows_these(opened):
    link = opened.find_element("css selector", "a[href='#gallery?stage=WSOD&kind=part&split=test']")
    opened.execute_script("arguments[0].click()", link)
    time.sleep(0.2)
    assert shown(opened) == 2 and set(tiles(opened)) == {"test_0000.png", "test_0003.png"}


def test_keys_move_open_and_close(opened):
    choose(opened, split="train", order="name")
    opened.execute_script("focusTile(0)")
    keys(opened, "ARROW_RIGHT", "ARROW_RIGHT")
    assert "train_0002" in opened.switch_to.active_element.get_attribute("aria-label")
    keys(opened, "HOME", "ARROW_DOWN")
    columns = opened.execute_script("return layout.columns")
    assert f"train_000{columns}" in opened.switch_to.active_element.get_attribute("aria-label")
    keys(opened, "ENTER")
    assert opened.find_element("id", "viewer").is_displayed()
    title = opened.find_element("id", "viewer-title")
    assert title.text.startswith(f"train_000{columns}")
    keys(opened, "ARROW_RIGHT")
    assert title.text.startswith(f"train_000{columns + 1}")
    assert opened.find_element("id", "panel-truth").is_displayed()
    keys(opened, "ESCAPE")
    assert not opened.find_element("id", "viewer").is_displayed()
    assert f"train_000{columns + 1}" in opened.switch_to.active_element.get_attribute("aria-label")


def start_review(driver):
    driver.execute_script("document.getElementById('review-start').click()")
    return driver.execute_script("const {photo, box} = decidable(); return [photo.i, box]")


def downloaded(driver, folder):
    (folder / "decisions.json").unlink(missing_ok=True)
    driver.execute_script("document.getElementById('review-download').click()")
    for _ in range(100):
        if (folder / "decisions.json").is_file():
            return json.loads((folder / "decisions.json").read_text())
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def test_review_by_keys(opened, folder):
    first, box = start_review(opened)
    doubts = {photo["i"]: photo["d"] for photo in records(opened)}
    assert doubts[first] == max(doubt for doubt in doubts.values() if doubt is not None)
    keys(opened, "a")
    keys(opened, "r")
    opened.execute_script(
        """const number = shown.findIndex((photo) => photo.t.length === 2 && ![...decisions.values()]
          .some((decision) => decision.image_id === photo.i));
        openPhoto(number, 0);
        document.getElementById("relabel").value = decidable().box[4] ? "0" : "1";"""
    )
    keys(opened, "l", "ENTER")
    keys(opened, "d", "ARROW_RIGHT", "ARROW_DOWN", "ENTER")
    file = downloaded(opened, folder)
    assert [decision["decision"] for decision in file["decisions"]] == ["accept", "reject", "relabel", "redraw"]
    accepted, _, relabelled, redrawn = file["decisions"]
    assert accepted["image_id"] == first and accepted["box"] == box[:4] and accepted["row"] == box[9]
    assert relabelled["to_label"] in file["classes"] and relabelled["to_label"] != relabelled["label"]
    moved = [after - before for after, before in zip(redrawn["to_box"], redrawn["box"], strict=True)]
    assert moved == pytest.approx([1, 1, 1, 1]) and file["run"]["pseudo_gt"] == "abc"
    assert (file["format"], file["version"]) == ("weaksam-review", 1)
    assert "4 decisions on" in opened.find_element("id", "review-count").get_attribute("textContent")


def test_review_by_mouse_and_undo(opened, folder):
    from selenium.webdriver.common.action_chains import ActionChains

    start_review(opened)
    opened.find_element("css selector", "[data-decision=redraw]").click()
    picture = opened.find_element("css selector", "#panel-stage img")
    scale = min(picture.size["width"] / 80, picture.size["height"] / 60)
    chain = ActionChains(opened, duration=50).move_to_element_with_offset(
        picture, round(-20 * scale), round(-15 * scale)
    )
    chain.click_and_hold().move_by_offset(round(30 * scale), round(20 * scale)).release().perform()
    (decision,) = downloaded(opened, folder)["decisions"]
    assert decision["decision"] == "redraw" and decision["to_box"] == pytest.approx([20, 15, 50, 35], abs=1.5)
    # The browser keeps it over a new start of the page; undo takes it back
    opened.refresh()
    assert "1 decisions" in opened.find_element("id", "review-count").text
    opened.execute_script(
        """Object.assign(state, {split: "train", stage: DATA.labels}); refresh();
        const [key] = decisions.keys(), [id, row] = JSON.parse(key);
        const number = shown.findIndex((photo) => photo.i === id);
        openPhoto(number, shown[number].layers[DATA.labels].b.findIndex((box) => box[9] === row));"""
    )
    keys(opened, "u")
    assert opened.find_element("id", "review-count").get_attribute("textContent") == "Nothing decided yet."
    assert not opened.find_element("id", "review-download").is_enabled()


def accessible_nodes(driver):
    """Role and name of what assistive software sees, as Chromium computes them."""
    driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    values = [
        (node.get("role", {}).get("value"), node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    driver.execute_cdp_cmd("Accessibility.disable", {})
    return values


NAMED = {
    "button",
    "link",
    "combobox",
    "searchbox",
    "textbox",
    "image",
    "dialog",
    "listitem",
    "navigation",
    "region",
    "form",
}


@pytest.mark.parametrize("state", ["page", "viewer"])
def test_everything_has_a_name(opened, state):
    if state == "viewer":
        start_review(opened)
    nodes = accessible_nodes(opened)
    roles = {role for role, _ in nodes}
    wanted = (
        {"dialog", "button", "combobox"} if state == "viewer" else {"main", "navigation", "banner", "link", "image"}
    )
    assert wanted <= roles, roles
    unnamed = [role for role, name in nodes if role in NAMED - {"listitem", "image"} and not name.strip()]
    assert unnamed == []
    assert opened.execute_script("return [...document.querySelectorAll('img')].every((img) => img.hasAttribute('alt'))")
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids)) and opened.execute_script("return document.documentElement.lang") == "en"
    levels = opened.execute_script(
        "return [...document.querySelectorAll('main h2, main h3, main h4')].map((h) => +h.tagName[1])"
    )
    assert levels[0] == 2 and all(after - before <= 1 for before, after in itertools.pairwise(levels))


CONTRAST = """
const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v; };
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return parse(getComputedStyle(document.body).backgroundColor);
}
const faults = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest("script, style, noscript, .stage-picture, option, :disabled")) continue;
  if (!element.checkVisibility()) continue;
  const svg = element.closest("svg"), style = getComputedStyle(element);
  const colour = parse(svg ? style.fill : style.color), behind = ground(svg ? svg.parentElement : element);
  const [light, dark] = [luminance(colour), luminance(behind)].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) faults.push([element.tagName, element.textContent.trim().slice(0, 30), ratio]);
}
return faults;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(opened, scheme):
    show_as(opened, WIDE, scheme)
    opened.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert opened.execute_script(CONTRAST) == []
    start_review(opened)
    assert opened.execute_script(CONTRAST) == []
    ground = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 22, 31)") == (scheme == "dark")


def test_a_phone_shows_all_without_scrolling_sideways(opened):
    show_as(opened, PHONE)
    opened.execute_script("dispatchEvent(new Event('resize'))")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    assert opened.execute_script("return layout.columns") == 2
    wide, narrow = (opened.find_element("css selector", name) for name in (".wide", ".narrow"))
    assert narrow.is_displayed() and not wide.is_displayed()
    opened.execute_script("document.querySelector('.tile').click()")
    assert opened.execute_script("return viewer.scrollWidth") <= PHONE[0]


def test_screenshots_are_pictures(opened, tmp_path):
    for size, scheme in ((WIDE, "light"), (WIDE, "dark"), (PHONE, "light")):
        show_as(opened, size, scheme)
        picture = tmp_path / f"{size[0]}_{scheme}.png"
        assert opened.save_screenshot(str(picture)) and picture.stat().st_size > 10_000


def test_many_photos_are_not_all_in_the_page_at_once(driver, tmp_path):
    """1000 photos: the grid has the height of all and the tiles of a few, also after a jump to the end."""
    made = results(tmp_path / "photos", 4, 0)
    many = page(made)
    html, _ = many.render()
    before, data, after = html.partition('<script type="application/json" id="data">')
    text, end, rest = after.partition("</script>")
    value = json.loads(text)
    value["photos"] = [{**photo, "i": f"{n}_{photo['i']}"} for n in range(250) for photo in value["photos"]]
    (tmp_path / "many.html").write_text(before + data + json.dumps(value).replace("<", "\\u003c") + end + rest)
    show_as(driver)
    driver.get(f"file://{tmp_path}/many.html")
    assert shown(driver) == 1000 and 0 < len(tiles(driver)) < 80
    driver.execute_script("focusTile(999)")
    time.sleep(0.2)
    assert 0 < len(tiles(driver)) < 80
    assert driver.switch_to.active_element.get_attribute("data-number") == "999"
    assert driver.execute_script("return grid.clientHeight") > 20_000
    assert complaints(driver) == []
