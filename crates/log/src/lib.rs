//! The tile log on disk: group commit, durable before answered. No SQL, no HTTP.
