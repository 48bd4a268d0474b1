"""The report by the rules of axe-core in headless Chromium: light and dark, wide and on a phone."""

import json

import pytest

from tests.report.browser import PHONE, WIDE, browser, missing_browser, show_as
from tests.report.pages import page, results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser())),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The page in a browser that knows axe-core."""
    base = pytest.importorskip("axe_playwright_python.base", reason="needs axe-core: pip install weaksam[dev]")
    folder = tmp_path_factory.mktemp("report")
    page(results(folder / "photos", 8, 4)).write(folder / "report.html")
    with browser(folder) as opened:
        opened.set_script_timeout(120)
        opened.get(f"file://{folder}/report.html")
        opened.execute_script(base.AXE_SCRIPT)
        yield opened


def violations(driver):
    """Rule, impact and first element of each violation of what axe-core checks."""
    checked = driver.execute_async_script("axe.run().then(arguments[0])")
    assert len(checked["passes"]) > 20, "axe-core checked the page"
    return [(rule["id"], rule["impact"], rule["nodes"][0]["html"][:120]) for rule in checked["violations"]]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_axe_is_violated(driver, size, scheme):
    show_as(driver, size, scheme)
    driver.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert violations(driver) == []
    driver.execute_script("document.getElementById('review-start').click()")
    assert driver.find_element("id", "viewer").is_displayed()
    assert violations(driver) == []
    driver.execute_script("viewer.close()")


def test_axe_sees_what_is_wrong(driver):
    """A picture without words and pale text are named, so that the checks above can fail."""
    show_as(driver)
    driver.execute_script(
        """const wrong = document.createElement("p");
        wrong.innerHTML = '<img src="data:,"><span style="color: #ddd; background: #fff">pale</span>';
        document.querySelector("main").prepend(wrong);"""
    )
    seen = {rule for rule, impact, _ in violations(driver) if impact in ("serious", "critical")}
    driver.execute_script("document.querySelector('main > p').remove()")
    assert {"image-alt", "color-contrast"} <= seen, json.dumps(sorted(seen))
