// What is wrong with headings, landmarks, tables and pictures.
() => {
  const wrong = [];
  const levels = [...document.querySelectorAll('h1, h2, h3, h4')].filter((it) => it.checkVisibility()).map((it) => +it.tagName[1]);
  if (levels.filter((it) => it === 1).length !== 1 || levels[0] !== 1) wrong.push(`h1: ${levels}`);
  levels.forEach((it, i) => i && it > levels[i - 1] + 1 && wrong.push(`h${it} after h${levels[i - 1]}`));
  for (const name of ['header.top', 'nav[aria-label]', 'main', 'footer']) if (document.querySelectorAll(name).length !== 1) wrong.push(name);
  if (!document.documentElement.lang || !document.title) wrong.push('language or title');
  const ids = [...document.querySelectorAll('[id]')].map((it) => it.id);
  if (new Set(ids).size !== ids.length) wrong.push('an id twice');
  for (const it of document.querySelectorAll('[aria-labelledby]')) if (!document.getElementById(it.getAttribute('aria-labelledby'))) wrong.push(it.outerHTML.slice(0, 80));
  for (const it of document.querySelectorAll('table')) {
    if (!it.caption?.textContent.trim()) wrong.push('a table without a caption');
    for (const th of it.tHead.querySelectorAll('th')) if (th.scope !== 'col') wrong.push(`th ${th.textContent}`);
    for (const row of it.querySelectorAll('tbody tr:not(.facts)')) if (row.cells[0].scope !== 'row') wrong.push('a row without a head');
  }
  for (const it of document.querySelectorAll('svg')) if (it.getAttribute('aria-hidden') !== 'true' && it.getAttribute('role') !== 'img') wrong.push(`svg ${it.id}`);
  if (document.querySelectorAll('[tabindex]:not([tabindex="0"]):not([tabindex="-1"])').length) wrong.push('an order of its own');
  return wrong;
}
