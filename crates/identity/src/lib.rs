//! Which agent is this? Authenticates agents and makes VerifiedAgent. Knows no machines' evidence and no policy.
