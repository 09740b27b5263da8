//! The PEP: one walk for every request. No CA or token-signing keys, no SQL.
