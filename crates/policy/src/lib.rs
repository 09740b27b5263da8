//! The PDP: binds both factors, evaluates Cedar, makes Decision. No HTTP, no SQL.
