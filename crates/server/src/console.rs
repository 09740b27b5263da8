//! Pages for people: live decisions, the approval inbox, passkey registration and login.
//!
//! Server-rendered under a strict content security policy; the only script runs WebAuthn ceremonies.
//! Nothing is decided here: rules and storage are behind [`port::ConsolePort`].

pub mod port;
