"""Claims: a piece of work is claimed by one at a time, and the claim ends with its block."""

from weaksam.store.claims import Claims, locked


def test_a_claimed_piece_is_refused_until_its_block_ends(tmp_path):
    claims = Claims(tmp_path / "claims")
    with claims.claim("a", wait=False) as first, claims.claim("a", wait=False) as second:
        assert (first, second) == (True, False)
        with claims.claim("b", wait=False) as other:
            assert other
    with claims.claim("a", wait=True) as again:
        assert again
    claims.remove()
    assert list(tmp_path.iterdir()) == []
    claims.remove()  # nothing there to remove


def test_what_does_not_exist_cannot_be_locked(tmp_path):
    with locked(tmp_path / "gone", wait=True) as claimed:
        assert not claimed
    with locked(tmp_path, wait=False) as claimed:  # a folder can
        assert claimed
