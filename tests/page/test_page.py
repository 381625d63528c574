"""The example app's page in a real browser: it follows the database, whoever changes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.async_api import Browser, Dialog, Page, expect

from support.observed import execute
from support.page_proxy import PageProxy
from support.site import Site


async def live(page: Page, url: str) -> Page:
    """The page, whose stream is open."""
    await page.goto(url)
    await expect(page.locator("#connection")).to_have_text("live")
    return page


async def test_a_change_made_with_psql_shows_without_a_reload(page: Page, site: Site) -> None:
    await live(page, site.url)
    await expect(page.locator("#orders li")).to_have_count(3)
    await execute(site.database, "UPDATE orders SET status = 'packed' WHERE id = 2")
    await expect(page.locator('#orders li[data-id="2"] .state')).to_have_text("packed")
    await execute(site.database, "INSERT INTO orders (status, item) VALUES ('new', 'A wheel')")
    await expect(page.locator("#orders li").first).to_contain_text("A wheel")
    await execute(site.database, "DELETE FROM orders WHERE id = 1")
    await expect(page.locator('#orders li[data-id="1"]')).to_have_count(0)


async def test_an_order_is_added_paid_and_delivered_by_the_worker(page: Page, site: Site) -> None:
    """With the keyboard alone."""
    await site.start_worker()
    await live(page, site.url)
    await page.locator("#item").focus()
    await page.keyboard.type("<b>A rope</b>")
    await page.keyboard.press("Enter")
    new = page.locator("#orders li").first
    await expect(new).to_contain_text("<b>A rope</b>")
    await new.locator("a").focus()
    await page.keyboard.press("Tab")
    await expect(new.locator('[data-action="pay"]')).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(new.locator('[data-action="pay"]')).to_have_count(0)
    await expect(new).to_be_focused()
    await page.keyboard.press("Enter")  # a second time: nothing else is pressed by it
    await expect(new.locator(".state")).to_have_text("delivered", timeout=20_000)


async def test_an_orders_own_page_follows_it_to_its_end(page: Page, site: Site) -> None:
    await live(page, f"{site.url}/orders/2")
    current = page.locator("#states [aria-current]")
    for state in ("new", "paid", "packed", "shipped", "delivered"):
        await execute(site.database, f"UPDATE orders SET status = '{state}' WHERE id = 2")
        await expect(current).to_have_text(state)
    await expect(page.locator("#connection")).to_have_text("ended")


async def test_deleting_asks_first(page: Page, site: Site) -> None:
    await live(page, f"{site.url}/orders/2")
    answers = iter([False, True])

    async def answer(dialog: Dialog) -> None:
        await (dialog.accept() if next(answers) else dialog.dismiss())

    page.on("dialog", answer)
    await page.locator('[data-action="delete"]').click()
    await execute(site.database, "UPDATE orders SET item = 'Two bells' WHERE id = 2")
    await expect(page.locator("#title")).to_have_text("2 · Two bells")
    await page.locator('[data-action="delete"]').click()
    await expect(page.locator("#message")).to_have_text("There is no such order any more.")


async def test_a_tab_that_is_not_seen_has_no_connection(page: Page, site: Site) -> None:
    await live(page, site.url)
    hide = "Object.defineProperty(document, 'hidden', {{ value: {}, configurable: true }});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    await page.evaluate(hide.format("true") + tell)
    await expect(page.locator("#connection")).to_have_text("connecting")
    await execute(site.database, "UPDATE orders SET item = 'Two bells' WHERE id = 2")
    await page.evaluate(hide.format("false") + tell)
    await expect(page.locator('#orders li[data-id="2"]')).to_contain_text("Two bells")
    await expect(page.locator("#connection")).to_have_text("live")


async def test_a_deleted_order_says_so_and_so_does_one_that_never_was(
    page: Page, site: Site
) -> None:
    await live(page, f"{site.url}/orders/2")
    await execute(site.database, "DELETE FROM orders WHERE id = 2")
    await expect(page.locator("#message")).to_have_text("There is no such order any more.")
    await expect(page.locator("#connection")).to_have_text("ended")
    for number in ("999", "99999999999"):
        await page.goto(f"{site.url}/orders/{number}")
        await expect(page.locator("#message")).to_have_text("There is no such order any more.")


async def test_two_tabs_show_what_one_of_them_does(browser: Browser, site: Site) -> None:
    one, other = await browser.new_page(), await browser.new_page()
    await live(one, site.url)
    await live(other, site.url)
    await one.locator('#orders li[data-id="3"] [data-action="pay"]').click()
    for tab in (one, other):
        await expect(tab.locator('#orders li[data-id="3"] .state')).to_have_text("paid")


async def test_a_page_catches_up_after_the_server_has_restarted(page: Page, site: Site) -> None:
    await live(page, site.url)
    await site.stop()
    await expect(page.locator("#connection")).to_have_text("connecting")
    await execute(site.database, "UPDATE orders SET status = 'shipped' WHERE id = 1")
    await site.start()
    state = page.locator('#orders li[data-id="1"] .state')
    await expect(state).to_have_text("shipped", timeout=30_000)
    await expect(page.locator("#connection")).to_have_text("live")


async def test_a_page_catches_up_though_a_proxy_has_answered_502_meanwhile(
    page: Page, site: Site
) -> None:
    """A browser gives up for good then, so the page begins anew."""
    async with PageProxy(site.url) as proxy:
        await live(page, proxy.url)
        await site.stop()
        await proxy.refused.wait()
        await execute(site.database, "UPDATE orders SET status = 'shipped' WHERE id = 1")
        await site.start()
        state = page.locator('#orders li[data-id="1"] .state')
        await expect(state).to_have_text("shipped", timeout=30_000)


async def test_the_watchers_status_is_shown(page: Page, site: Site) -> None:
    await live(page, site.url)
    await expect(page.locator("#status")).to_contain_text("listening", timeout=10_000)


LOOKS = [("light", 1000), ("dark", 1000), ("light", 360), ("dark", 360)]


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_it_fits_a_narrow_window_and_is_readable_in_the_dark(
    browser: Browser, site: Site, tmp_path: Path, scheme: str, width: int
) -> None:
    """PAGE_SCREENSHOTS names a folder for pictures of it."""
    page = await browser.new_page(
        viewport={"width": width, "height": 760},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    folder = Path(os.environ.get("PAGE_SCREENSHOTS", tmp_path))
    long = "A bell with a name that is too long for one line of a small window " * 2
    await execute(site.database, f"UPDATE orders SET item = '{long}' WHERE id = 1")
    for name, path in (("list", "/"), ("order", "/orders/1")):
        await live(page, f"{site.url}{path}")
        await page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)
        needed = await page.evaluate("document.documentElement.scrollWidth")
        assert needed <= width
        assert await page.evaluate(LOW_CONTRASTS) == []


LOW_CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrasts = [...document.querySelectorAll("body *")]
    .filter((node) => node.offsetParent && [...node.childNodes].some(
      (child) => child.nodeType === 3 && child.textContent.trim()))
    .filter((node) => node.tagName !== "NOSCRIPT")
    .map((node) => {
      const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => a - b);
      return [(pair[1] + 0.05) / (pair[0] + 0.05), node.outerHTML.slice(0, 80)];
    });
  return contrasts.filter(([contrast]) => contrast < 4.5);
}"""
"""Texts whose contrast to what is behind them is below 4.5, as WCAG 2.2 asks for."""
