//! Published vectors of RFC 6962 implementations, and a naive tree that follows the RFC's text word by word.

use proptest::prelude::*;

use super::*;

/// The leaves of the reference tree used by certificate-transparency implementations.
const LEAVES: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];

struct Naive(Vec<Hash>);

impl Naive {
    fn of(entries: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        Self(entries.into_iter().map(|entry| leaf_hash(entry.as_ref())).collect())
    }

    fn numbered(count: u64) -> Self {
        Self::of((0..count).map(u64::to_be_bytes))
    }

    /// MTH of RFC 6962 §2.1, as written there.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let mut k = 1;
                while k * 2 < many.len() {
                    k *= 2;
                }
                node_hash(&Self::mth(&many[..k]), &Self::mth(&many[k..]))
            }
        }
    }

    fn root(&self, size: u64) -> Hash {
        Self::mth(&self.0[..usize::try_from(size).unwrap()])
    }
}

impl Nodes for Naive {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let start = usize::try_from(index << level).unwrap();
        let end = usize::try_from((index + 1) << level).unwrap();
        self.0.get(start..end).map(Self::mth)
    }
}

#[test]
fn roots_are_those_of_the_reference_tree() {
    #[track_caller]
    fn check(size: usize, root_hex: &str) {
        let mut frontier = Frontier::default();
        for leaf in &LEAVES[..size] {
            frontier.push(leaf_hash(leaf));
        }
        assert_eq!(frontier.root().hex(), root_hex, "size {size}");
        assert_eq!(root(&Naive::of(LEAVES), size as u64).unwrap().hex(), root_hex, "size {size}");
    }
    check(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check(1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    check(2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    check(3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    check(4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7");
    check(5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4");
    check(6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef");
    check(7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c");
    check(8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
}

#[test]
fn inclusion_proofs_are_those_of_the_reference_tree() {
    let proof = inclusion_proof(&Naive::of(LEAVES), 5, 8).unwrap();
    assert_eq!(
        proof.iter().map(Hash::hex).collect::<Vec<_>>(),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    let proof = inclusion_proof(&Naive::of(LEAVES), 2, 3).unwrap();
    assert_eq!(
        proof.iter().map(Hash::hex).collect::<Vec<_>>(),
        ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
    );
}

#[test]
fn consistency_proofs_are_those_of_the_reference_tree() {
    let proof = consistency_proof(&Naive::of(LEAVES), 6, 8).unwrap();
    assert_eq!(
        proof.iter().map(Hash::hex).collect::<Vec<_>>(),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert!(consistency_proof(&Naive::of(LEAVES), 0, 8).unwrap().is_empty());
    assert!(consistency_proof(&Naive::of(LEAVES), 8, 8).unwrap().is_empty());
    assert_eq!(consistency_proof(&Naive::of(LEAVES), 9, 8), Err(ProofError::OutOfRange));
}

#[test]
fn every_proof_of_a_small_tree_verifies_and_no_other_does() {
    for size in 1..40_u64 {
        let tree = Naive::numbered(size);
        let root = tree.root(size);
        for index in 0..size {
            let proof = inclusion_proof(&tree, index, size).unwrap();
            let leaf = tree.0[usize::try_from(index).unwrap()];
            assert!(verify_inclusion(&proof, index, &leaf, size, &root));
            assert!(!verify_inclusion(&proof, (index + 1) % size, &leaf, size, &root) || size == 1);
            assert!(!verify_inclusion(&proof, index, &leaf, size, &leaf_hash(b"other")));
            assert!(!verify_inclusion(&proof, index, &leaf_hash(b"other"), size, &root));
            assert!(!verify_inclusion(&proof, index + size, &leaf, size, &root));
            let mut longer = proof.clone();
            longer.push(root);
            assert!(!verify_inclusion(&longer, index, &leaf, size, &root));
            if !proof.is_empty() {
                assert!(!verify_inclusion(&proof[1..], index, &leaf, size, &root));
            }
        }
        for old in 0..=size {
            let proof = consistency_proof(&tree, old, size).unwrap();
            let old_root = tree.root(old);
            assert!(verify_consistency(&proof, old, &old_root, size, &root), "{old} -> {size}");
            assert!(!verify_consistency(&proof, old, &leaf_hash(b"other"), size, &root));
            assert!(!verify_consistency(&proof, old, &old_root, size, &leaf_hash(b"other")) || old == 0);
            for at in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[at] = leaf_hash(b"other");
                assert!(!verify_consistency(&wrong, old, &old_root, size, &root));
            }
        }
    }
}

#[test]
fn a_smaller_tree_is_never_the_successor_of_a_larger_one() {
    let tree = Naive::numbered(9);
    assert!(!verify_consistency(&[], 9, &tree.root(9), 8, &tree.root(8)));
}

proptest! {
    #[test]
    fn the_frontier_agrees_with_the_naive_tree(size in 0_u64..700) {
        let tree = Naive::numbered(size);
        let mut frontier = Frontier::default();
        for leaf in &tree.0 {
            frontier.push(*leaf);
        }
        prop_assert_eq!(frontier.root(), tree.root(size));
        prop_assert_eq!(root(&tree, size).unwrap(), tree.root(size));
    }

    #[test]
    fn larger_trees_prove_inclusion_and_consistency(size in 1_u64..700, a in any::<u64>(), b in any::<u64>()) {
        let (index, old) = (a % size, b % (size + 1));
        let tree = Naive::numbered(size);
        let root = tree.root(size);
        let path = inclusion_proof(&tree, index, size).unwrap();
        prop_assert!(verify_inclusion(&path, index, &tree.0[usize::try_from(index).unwrap()], size, &root));
        let path = consistency_proof(&tree, old, size).unwrap();
        prop_assert!(verify_consistency(&path, old, &tree.root(old), size, &root));
    }
}
