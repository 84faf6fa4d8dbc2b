"""The contrast of every text of a page, as WCAG 2.2 has it, measured in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from browser import Browser

LEAST = 4.5  # of text that is not large (success criterion 1.4.3)


class Contrast(NamedTuple):
    """One piece of text.

    Attributes:
        ratio: of its colour to that behind it, 1 to 21.
        where: the element, as a path of tags and classes.
        text: its beginning.
    """

    ratio: float
    where: str
    text: str


def contrasts(browser: Browser) -> list[Contrast]:
    """Those of all text nodes that are shown, and of what CSS writes; lowest first."""
    return [Contrast(*each) for each in browser.run(_SCRIPT)]


def luminance(colour: Sequence[float]) -> float:
    """The relative luminance, 0 to 1, of red, green and blue from 0 to 255."""
    shares = [part / 255 for part in colour]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in shares
    )
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


_SCRIPT = """
const parse = (text) => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const over = ([r, g, b, a], below) =>
  [r, g, b].map((part, n) => part * a + below[n] * (1 - a));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ancestors = (element) => {
  const found = [];
  for (let each = element; each; each = each.parentElement) found.unshift(each);
  return found;
};
// What is painted, from the outermost element inwards; opacity fades both at once.
const painted = (element, style, own) => {
  let behind = [255, 255, 255], fade = 1;
  for (const each of ancestors(element)) {
    const its = getComputedStyle(each);
    fade *= Number(its.opacity);
    const [r, g, b, a] = parse(its.backgroundColor);
    behind = over([r, g, b, a * fade], behind);
  }
  if (own) fade *= Number(style.opacity);
  const [r, g, b, a] = parse(style.color);
  return [over([r, g, b, a * fade], behind), behind];
};
const name = (element) =>
  element.tagName.toLowerCase() + (element.className ? '.' + element.className : '');
const path = (element) => ancestors(element).slice(-3).map(name).join(' > ');
const found = [];
const measure = (element, style, text, own) => {
  const [one, two] = painted(element, style, own).map(luminance);
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  found.push([ratio, path(element), text.trim().slice(0, 40)]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(element.tagName)) continue;
  const own = element.checkVisibility({visibilityProperty: true});
  if (own) measure(element, getComputedStyle(element), walker.currentNode.data);
}
for (const element of document.body.querySelectorAll('*')) {
  if (!element.checkVisibility()) continue;
  for (const which of ['::before', '::after', '::placeholder']) {
    const style = getComputedStyle(element, which);
    const text = which === '::placeholder' ? element.placeholder : style.content;
    if (text && text !== 'none' && text !== 'normal' && text !== '""') {
      measure(element, style, text, true);
    }
  }
}
return found.sort((a, b) => a[0] - b[0]);
"""
