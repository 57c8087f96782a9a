"""What axe finds wrong with the page."""

from playwright.sync_api import Page


def serious(page: Page, axe: str) -> list[str]:
    """What axe finds wrong with the page as it is, of what is serious."""
    # A panel that is still fading in has less contrast than it will have.
    page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
    page.evaluate(axe)
    results = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['html'][:150]} {node['failureSummary']}"
        for violation in results["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
