// The console's only script: WebAuthn ceremonies, and repeating the live page. It decides nothing.
'use strict';

const bytes = (text) =>
  Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '');

async function post(path, body) {
  const response = await fetch(path, {
    method: 'POST',
    credentials: 'same-origin',
    redirect: 'error',
    headers: {
      'content-type': 'application/json',
      'countersign-csrf': document.querySelector('meta[name=csrf]').content,
    },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const listed = (offer) => offer.credentials.map((id) => ({ type: 'public-key', id: bytes(id) }));

async function register(button) {
  const offer = await post(button.dataset.begin, {});
  const credential = await navigator.credentials.create({
    publicKey: {
      challenge: bytes(offer.challenge),
      rp: { id: offer.rp_id, name: 'countersign' },
      user: {
        id: bytes(offer.user.id),
        name: offer.user.name,
        displayName: offer.user.display_name,
      },
      pubKeyCredParams: [
        { type: 'public-key', alg: -7 },
        { type: 'public-key', alg: -8 },
      ],
      excludeCredentials: listed(offer),
      authenticatorSelection: { residentKey: 'required', userVerification: 'required' },
      attestation: 'none',
      timeout: offer.timeout_millis,
    },
  });
  return post(button.dataset.finish, {
    id: text(credential.rawId),
    client_data: text(credential.response.clientDataJSON),
    attestation_object: text(credential.response.attestationObject),
  });
}

async function assert(button, begin) {
  const offer = await post(button.dataset.begin, begin);
  const credential = await navigator.credentials.get({
    publicKey: {
      challenge: bytes(offer.challenge),
      rpId: offer.rp_id,
      allowCredentials: listed(offer),
      userVerification: 'required',
      timeout: offer.timeout_millis,
    },
  });
  return post(button.dataset.finish, {
    id: text(credential.rawId),
    client_data: text(credential.response.clientDataJSON),
    authenticator_data: text(credential.response.authenticatorData),
    signature: text(credential.response.signature),
  });
}

const ceremonies = {
  register,
  login: (button) => assert(button, {}),
  approve: (button) => assert(button, { view: button.dataset.view }),
};

function explain(error) {
  if (error.name === 'NotAllowedError') return 'The passkey did not answer, or you cancelled. Nothing was done.';
  if (error.name === 'InvalidStateError') return 'This passkey is registered already.';
  if (error instanceof TypeError) return 'The server cannot be reached. Nothing was done.';
  return `Nothing was done: ${error.message}.`;
}

for (const button of document.querySelectorAll('[data-ceremony]')) {
  const status = document.querySelector('[data-status]');
  button.hidden = false;
  if (!window.PublicKeyCredential) {
    button.disabled = true;
    status.textContent = 'This browser has no passkeys.';
    continue;
  }
  button.addEventListener('click', async () => {
    button.disabled = true;
    status.dataset.status = 'busy';
    status.textContent = 'Waiting for your passkey…';
    try {
      const done = await ceremonies[button.dataset.ceremony](button);
      status.textContent = 'Done.';
      location.assign(button.dataset.next ?? done.next);
    } catch (error) {
      status.dataset.status = 'failed';
      status.textContent = explain(error);
      button.disabled = false;
    }
  });
}

// The live page repeats itself, unless somebody is reading with the keyboard or in another tab.
const live = document.querySelector('[data-live]');
if (live) {
  setInterval(() => {
    const reading = document.activeElement !== document.body || String(getSelection()) !== '';
    if (!document.hidden && !reading) location.reload();
  }, Number(live.dataset.live));
}
