// A person at the console: Chromium with a virtual authenticator whose passkeys live in a JSON file.
//
//   node approve.mjs register   <invite-url>   <state.json> [options]
//   node approve.mjs approve    <approval-url> <state.json> [options]
//   node approve.mjs refuse     <approval-url> <state.json> [options]
//   node approve.mjs screenshot <url>          <state.json> <out.png> [options]
//
//   --screenshot <out.png>  the page before answering      --width <px>  default 1100
//   --dark                  dark colours                   --no-js       reading without a script (no login)
//   --reload                follow the page through one reload of its own before looking
//
// Prints one JSON object. Exits 1 on any failure: the page's, a script error, a violation of the content security
// policy, an overflow at the given width, or an accessibility finding. It is a test driver and nothing more: the
// authenticator says yes to everything, and its private keys are in the file.

import { readFile, rename, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import AxeBuilder from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const TIMEOUT_MS = 20_000;
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-default-apps',
  '--disable-sync',
  '--no-first-run',
  '--no-default-browser-check',
  '--metrics-recording-only',
];

const usage = 'usage: approve.mjs register|approve|refuse|screenshot <url> <state.json> [<out.png>] [options]';

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      screenshot: { type: 'string' },
      width: { type: 'string', default: '1100' },
      dark: { type: 'boolean', default: false },
      'no-js': { type: 'boolean', default: false },
      reload: { type: 'boolean', default: false },
    },
  });
  const [command, url, stateFile, png] = positionals;
  const commands = { register, approve, refuse, screenshot };
  if (!Object.hasOwn(commands, command) || !url || !stateFile) throw new Error(usage);
  if (command === 'screenshot' && !png) throw new Error(usage);

  const browser = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });
  try {
    const person = await Person.sitDown(browser, stateFile, values);
    let result;
    try {
      result = await commands[command](person, url, { ...values, png });
    } finally {
      // Also after a failure: a counter that was shown to the server may not be shown again.
      await person.save();
    }
    if (person.problems.length > 0) throw new Error(`the page has problems: ${person.problems.join(' | ')}`);
    return { ok: true, command, ...result, pages_checked: person.checked };
  } finally {
    await browser.close();
  }
}

/** One person with one browser and one authenticator. */
class Person {
  static async sitDown(browser, stateFile, { width, dark, 'no-js': withoutScript }) {
    const person = new Person();
    person.stateFile = stateFile;
    person.problems = [];
    person.checked = 0;
    person.withoutScript = withoutScript;
    person.context = await browser.newContext({
      viewport: { width: Number(width), height: 900 },
      colorScheme: dark ? 'dark' : 'light',
      reducedMotion: 'reduce',
      javaScriptEnabled: !withoutScript,
    });
    person.context.setDefaultTimeout(TIMEOUT_MS);
    const page = await person.context.newPage();
    person.page = page;
    page.on('pageerror', (error) => person.problems.push(`script error: ${error.message}`));
    page.on('console', (message) => {
      const expected = /Failed to load resource: the server responded with a status of 4\d\d/;
      if (message.type() === 'error' && !expected.test(message.text())) {
        person.problems.push(`console: ${message.text()}`);
      }
    });
    await page.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) => {
        console.error(`CSP violation: ${event.effectiveDirective} ${event.blockedURI}`);
      });
    });
    person.cdp = await person.context.newCDPSession(page);
    await person.cdp.send('WebAuthn.enable', { enableUI: false });
    const { authenticatorId } = await person.cdp.send('WebAuthn.addVirtualAuthenticator', {
      options: {
        protocol: 'ctap2',
        transport: 'internal',
        hasResidentKey: true,
        hasUserVerification: true,
        isUserVerified: true,
        automaticPresenceSimulation: true,
      },
    });
    person.authenticatorId = authenticatorId;
    for (const credential of await readState(stateFile)) {
      await person.cdp.send('WebAuthn.addCredential', { authenticatorId, credential });
    }
    return person;
  }

  /** Keeps the passkeys with their counters for the next time. */
  async save() {
    const { authenticatorId } = this;
    const { credentials } = await this.cdp.send('WebAuthn.getCredentials', { authenticatorId });
    const draft = `${this.stateFile}.tmp`;
    await writeFile(draft, `${JSON.stringify({ credentials }, null, 2)}\n`, { mode: 0o600 });
    await rename(draft, this.stateFile);
  }

  /** Goes to a page, logging in on the way if asked to. */
  async open(url) {
    const response = await this.page.goto(url, { waitUntil: 'load' });
    if (!response.ok()) throw new Error(`${url} answers ${response.status()}: ${await this.text('main')}`);
    if (new URL(this.page.url()).pathname === '/login' && !this.withoutScript) {
      await this.check();
      const done = this.page.waitForURL((at) => at.pathname !== '/login', { waitUntil: 'load' });
      await this.press('Log in with passkey', done);
    }
    await this.check();
    if (await this.page.locator('.failure').isVisible()) {
      throw new Error(`${url}: ${await this.text('main')}`);
    }
  }

  /** The call as the page shows it: argument to value. */
  shown() {
    return this.page.locator('.args tbody tr').evaluateAll((rows) =>
      Object.fromEntries(
        rows.map((row) => [
          row.querySelector('th code')?.textContent ?? '',
          row.querySelector('.value').textContent,
        ]),
      ),
    );
  }

  /** Presses a button and waits for where it leads, or for the page to say why it does not. */
  async press(name, done) {
    const button = this.page.getByRole('button', { name, exact: true });
    if (!(await button.isVisible())) {
      done.catch(() => {});
      throw new Error(`there is no button "${name}": ${await this.text('main')}`);
    }
    const failed = this.page
      .locator('[data-status=failed]')
      .waitFor({ state: 'visible' })
      .then(async () => {
        throw new Error(`the page says: ${await this.text('[data-status=failed]')}`);
      });
    // Whichever comes second is of no interest, also when it fails.
    done.catch(() => {});
    failed.catch(() => {});
    await button.click();
    await Promise.race([done, failed]);
  }

  /** Accessibility and overflow, on the page as it is. */
  async check() {
    this.checked += 1;
    if (this.withoutScript) return;
    const at = new URL(this.page.url()).pathname;
    const { violations } = await new AxeBuilder({ page: this.page }).setLegacyMode(true).analyze();
    for (const { id, nodes } of violations) {
      this.problems.push(`axe ${id} on ${at}: ${nodes.map((node) => node.target.join(' ')).join(', ')}`);
    }
    const excess = await this.page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
    );
    if (excess > 0) this.problems.push(`${at} is ${excess} px too wide`);
  }

  async text(selector) {
    return (await this.page.locator(selector).first().innerText()).trim().replace(/\s+/g, ' ');
  }

  async picture(file) {
    await this.page.screenshot({ path: file, fullPage: true });
  }
}

async function register(person, url, { screenshot: file }) {
  await person.open(url);
  if (file) await person.picture(file);
  const done = person.page.waitForURL((at) => at.pathname === '/login', { waitUntil: 'load' });
  await person.press('Register a passkey', done);
  await person.check();
  return { url: person.page.url(), page: await person.text('.notice') };
}

async function approve(person, url, { screenshot: file }) {
  await person.open(url);
  if (file) await person.picture(file);
  const shown = await person.shown();
  const done = person.page.waitForEvent('load');
  await person.press('Approve with passkey', done);
  await person.check();
  return expectState(person, 'approved', { shown });
}

async function refuse(person, url, { screenshot: file }) {
  await person.open(url);
  if (file) await person.picture(file);
  const shown = await person.shown();
  const done = person.page.waitForEvent('load');
  await person.press('Refuse', done);
  await person.check();
  return expectState(person, 'refused', { shown });
}

async function expectState(person, expected, rest) {
  const state = (await person.page.locator('.call-heading .pill').evaluate((pill) => pill.lastChild.textContent)).trim();
  const page = await person.text('.notice');
  // A yes may be spent before the page is looked at.
  const reached = state === expected || (expected === 'approved' && state === 'used');
  if (!reached) throw new Error(`the request is ${state}, not ${expected}: ${page}`);
  return { url: person.page.url(), state, page, ...rest };
}

async function screenshot(person, url, { png, reload }) {
  await person.open(url);
  if (reload) {
    await person.page.evaluate(() => document.activeElement?.blur());
    await person.page.waitForEvent('load');
    await person.check();
  }
  await person.picture(png);
  return { url: person.page.url(), screenshot: png, title: await person.page.title() };
}

async function readState(file) {
  let text;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return [];
    throw error;
  }
  return JSON.parse(text).credentials;
}

try {
  console.log(JSON.stringify(await main()));
} catch (error) {
  console.log(JSON.stringify({ ok: false, error: error.message }));
  process.exitCode = 1;
}
