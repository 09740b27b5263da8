//! The control plane over HTTP: ACME, attestation CA, OAuth, admin API, console. No upstream traffic.
