//! What happened, provably? Records, Merkle tree, checkpoints, proofs; makes Receipt. Knows not what records mean.
