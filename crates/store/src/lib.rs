//! All persistence: embedded SQLite, one conformance suite for every back end. No rules.
