// Devo's own browser client under node: reads what to do as JSON from its standard input, prints what came of each step.
'use strict';
const client = require('@devoinc/browser-sdk');

const stream = (devo, options, until) => new Promise((resolve) => {
  const found = { meta: null, rows: [], error: null };
  const running = devo.streamFetch(options, {
    meta: (meta) => { found.meta = meta; },
    data: (rows) => {
      found.rows.push(...rows);
      if (until && found.rows.length >= until) { running.abort(); resolve(found); }
    },
    error: (error) => { found.error = error; resolve(found); },
    done: () => resolve(found),
    abort: () => resolve(found),
  });
});

const main = async () => {
  const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  for (const step of given.steps) {
    const devo = client.client({ ...given.connect, ...(step.connect || {}) });
    try {
      const result = step.do === 'stream'
        ? await stream(devo, step.with[0], step.until)
        : await devo[step.do](...step.with);
      console.log(JSON.stringify({ result }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error && error.message || error) }));
    }
  }
  process.exit(0);
};
main();
