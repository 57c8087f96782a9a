import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/**
 * A classic script in place of a module: browsers load no module from file://, and the page could then not say
 * what to do. The policy allows nothing but the site's own files. The libraries' texts (names of formats, pages about
 * errors) lose the scheme of their outside addresses, so that a search for one in the site finds nothing.
 */
function classicPage(): Plugin {
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  return {
    name: 'classic-page',
    apply: 'build',
    generateBundle(_options, bundle) {
      for (const file of Object.values(bundle)) {
        if (file.type === 'chunk') file.code = file.code.replace(/https?:\/\/(?=[a-z])(?!www\.w3\.org\/)/g, '');
      }
    },
    transformIndexHtml: {
      order: 'post',
      handler: (html) =>
        html
          .replace('<meta charset="utf-8">', `$&\n  <meta http-equiv="Content-Security-Policy" content="${policy}">`)
          .replace(/<script type="module" crossorigin/g, '<script defer')
          .replace(/<link rel="stylesheet" crossorigin/g, '<link rel="stylesheet"'),
    },
  };
}

export default defineConfig({
  base: './',
  plugins: [svelte(), classicPage()],
  build: {
    target: 'es2022',
    modulePreload: false,
    // Else the script would add the styles itself, which the policy forbids.
    cssCodeSplit: false,
    rolldownOptions: { output: { format: 'iife' } },
  },
  test: { include: ['tests/**/*.test.ts'] },
});
