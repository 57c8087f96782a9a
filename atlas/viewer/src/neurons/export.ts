/** A drawing of the page as an SVG file that stands alone. */

import { loadTile } from '../lib/tiles';

/** What the page's styles say of a shape and the file must say by itself. */
const COPIED_STYLES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linecap', 'stroke-linejoin', 'fill-opacity', 'opacity', 'font-family', 'font-size', 'font-weight', 'text-anchor', 'dominant-baseline', 'paint-order'];
const NAMESPACE = 'http://www.w3.org/2000/svg';

/** Pictures that are parts of a sheet become pictures of their own, inside the file; nothing outside is needed. */
export async function standalone(drawing: SVGSVGElement, { title, text, ground }: { title: string; text: string; ground: string }): Promise<Blob> {
  // In a document of its own, which loads nothing: the page's policy would complain of the pictures.
  const paper = document.implementation.createDocument(NAMESPACE, 'svg');
  const copy = paper.importNode(drawing, true);
  const [from, to] = [[...drawing.querySelectorAll('*')], [...copy.querySelectorAll('*')]];
  for (let i = 0; i < from.length; i++) {
    const [one, other] = [from[i] as SVGElement, to[i] as SVGElement];
    const styles = getComputedStyle(one);
    if (!(one instanceof SVGGElement) && !(one instanceof SVGSVGElement)) {
      for (const name of COPIED_STYLES) other.setAttribute(name, styles.getPropertyValue(name));
    }
    for (const name of ['class', 'role', 'tabindex', 'aria-label', 'aria-pressed', 'style']) other.removeAttribute(name);
  }
  await Promise.all([...copy.querySelectorAll('svg')].map((icon) => embed(icon)));
  for (const mark of copy.querySelectorAll('[data-screen]')) mark.remove(); // of the screen alone
  copy.prepend(createElement(paper, 'title', {}, title), createElement(paper, 'desc', {}, text), createElement(paper, 'rect', { width: '100%', height: '100%', fill: ground }));
  for (const name of ['class', 'style', 'aria-label', 'role']) copy.removeAttribute(name);
  copy.setAttribute('xmlns', NAMESPACE);
  return new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`], { type: 'image/svg+xml' });
}

/** Put the part of a sheet that an inner drawing shows into it as a picture. */
async function embed(icon: SVGSVGElement): Promise<void> {
  const image = icon.querySelector('image');
  const sheet = image && (await loadTile(image.getAttribute('href') as string));
  if (!sheet) throw new Error('a picture of the drawing did not arrive');
  const [x, y, width, height] = (icon.getAttribute('viewBox') as string).split(' ').map(Number) as [number, number, number, number];
  const scale = sheet.width / Number(image.getAttribute('width')); // sheets are given in their own pixels, unless they are cropped
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext('2d')?.drawImage(sheet, x * scale, y * scale, width * scale, height * scale, 0, 0, canvas.width, canvas.height);
  const place = Object.fromEntries(['x', 'y', 'width', 'height'].map((name) => [name, icon.getAttribute(name) as string]));
  icon.replaceWith(createElement(icon.ownerDocument, 'image', { ...place, href: canvas.toDataURL('image/png') }));
}

function createElement(paper: Document, name: string, attributes: Record<string, string>, text = ''): SVGElement {
  const element = paper.createElementNS(NAMESPACE, name) as SVGElement;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}
