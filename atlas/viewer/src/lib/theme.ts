/** Light or dark: the system's, until the reader chooses. */

export type Theme = 'light' | 'dark';

/** Colours of what is drawn on canvases: its ground, and what stands out from it. */
export interface Colours {
  ground: string;
  ink: string;
}

/** The same as in the page's stylesheet. */
export const COLOURS: Record<Theme, Colours> = {
  light: { ground: '#f7f7f5', ink: '#1c1d1f' },
  dark: { ground: '#111214', ink: '#ececea' },
};

const KEY = 'activation-atlas-theme';
const dark = () => matchMedia('(prefers-color-scheme: dark)');

export function currentTheme(): Theme {
  const stored = read();
  return stored ?? (dark().matches ? 'dark' : 'light');
}

/** Show a theme; the choice is stored, unless it is the system's anyway. */
export function chooseTheme(theme: Theme): void {
  document.documentElement.dataset['theme'] = theme;
  const system: Theme = dark().matches ? 'dark' : 'light';
  try {
    if (theme === system) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch {
    // Storage may be switched off; the choice then lasts as long as the page.
  }
}

/** Calls back when the system changes and the reader has not chosen. */
export function followSystem(change: (theme: Theme) => void): () => void {
  const query = dark();
  const listen = () => {
    if (!read()) change(query.matches ? 'dark' : 'light');
  };
  query.addEventListener('change', listen);
  return () => query.removeEventListener('change', listen);
}

function read(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === 'light' || value === 'dark' ? value : null;
  } catch {
    return null;
  }
}
