/** The keys of the page itself; dialogs and fields have their own. */

import type { MapViewer } from '../map/viewer';

/** Share of the window that an arrow key pans by. */
const PAN_SHARE = 0.15;
const ARROWS: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Actions of keys besides moving the map. */
interface KeyActions {
  /** Point at the cell in the middle. */
  point: () => void;
  /** Go from cell to cell. */
  neighbour: (right: number, down: number) => void;
  /** Open the cell that is pointed at; with `more` beside others. */
  open: (more: boolean) => void;
  /** Close what is open, the last first. */
  close: () => void;
  help: () => void;
  change: (by: 1 | -1, of: 'layer' | 'level') => void;
}

/** Whether a key is the page's: not one of the browser's, of a field, of a dialog, or of a panel that scrolls. */
export function isOurs(event: KeyboardEvent): boolean {
  const typed = event.getModifierState('AltGraph'); // on many keyboards brackets are typed so
  if (((event.ctrlKey || event.altKey) && !typed) || event.metaKey || event.defaultPrevented) return false;
  const target = event.target as HTMLElement;
  if (target.matches('input, select, textarea, dialog, dialog *') && event.key !== 'Escape') return false;
  // Inside a panel that scrolls, these keys are its own.
  return !(/^(Arrow|Home|Page)/.test(event.key) && !event.shiftKey && target.closest('.drawer, .list, .options, .image'));
}

/** Handle a key; returns whether it has an action. */
export function handleKey(event: KeyboardEvent, map: MapViewer, actions: KeyActions): boolean {
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) actions.neighbour(...arrow);
  else if (arrow) {
    map.pan(PAN_SHARE * arrow[0], PAN_SHARE * arrow[1]);
    actions.point();
  } else if (event.key === '+' || event.key === '=') map.zoomIn();
  else if (event.key === '-') map.zoomOut();
  else if (event.key === '0' || event.key === 'Home') map.home();
  else if (event.key === 'Escape') actions.close();
  else if (event.key === '?') actions.help();
  else if (event.key === '[') actions.change(-1, 'layer');
  else if (event.key === ']') actions.change(1, 'layer');
  else if (event.key === '<') actions.change(-1, 'level');
  else if (event.key === '>') actions.change(1, 'level');
  else if (event.key === 'Enter' && !(event.target as HTMLElement).matches('button, a, summary, [role]')) actions.open(event.shiftKey);
  else return false;
  return true;
}

/** Whether a key types a letter, which begins the search. */
export function isLetter(key: string): boolean {
  return /^\p{L}$/u.test(key);
}
