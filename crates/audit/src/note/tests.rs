//! Notes that open, and every way they must not.

use super::*;
use crate::tree;

const SEED: [u8; 32] = [7; 32];

fn key() -> LogKey {
    LogKey::from_seed(&SEED).unwrap()
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: origin("gw.example/audit"), size: 42, root: tree::leaf_hash(b"root") }
}

#[test]
fn the_verifier_key_of_the_specification_reads_back() {
    // From the documentation of the Go checksum database, the first user of this format.
    let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    assert_eq!(LogVerifier::parse(text).unwrap().to_string(), text);
    for wrong in [
        "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.com+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033DE0AE+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae+Bs4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae",
        "",
    ] {
        assert_eq!(LogVerifier::parse(wrong), Err(NotAVerifierKey), "{wrong}");
    }
}

#[test]
fn a_signed_checkpoint_opens_with_its_own_key_only() {
    let note = key().sign(&checkpoint());
    let verifier = key().verifier(&origin("gw.example/audit"));
    assert_eq!(open(note.as_bytes(), &verifier), Ok(checkpoint()));
    let other_key = LogKey::from_seed(&[8; 32]).unwrap().verifier(&origin("gw.example/audit"));
    assert_eq!(open(note.as_bytes(), &other_key), Err(NoteError::Unsigned));
    let other_log = key().verifier(&origin("gw.example/other"));
    assert_eq!(open(note.as_bytes(), &other_log), Err(NoteError::Unsigned));
}

#[test]
fn a_key_does_not_vouch_for_the_checkpoint_of_another_log() {
    let verifier = key().verifier(&origin("gw.example/audit"));
    let foreign = Checkpoint { origin: origin("gw.example/other"), ..checkpoint() };
    let body = foreign.to_body();
    let mut blob = verifier.key_id.to_vec();
    blob.extend_from_slice(key().0.sign(body.as_bytes()).as_ref());
    let note = format!("{body}\n\u{2014} gw.example/audit {}\n", STANDARD.encode(blob));
    assert_eq!(open(note.as_bytes(), &verifier), Err(NoteError::WrongOrigin));
}

#[test]
fn every_flipped_bit_of_a_note_is_noticed() {
    let note = key().sign(&checkpoint()).into_bytes();
    let verifier = key().verifier(&origin("gw.example/audit"));
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut wrong = note.clone();
            wrong[at] ^= 1 << bit;
            assert!(open(&wrong, &verifier).is_err(), "byte {at} bit {bit}");
        }
    }
    for end in 0..note.len() {
        assert!(open(&note[..end], &verifier).is_err(), "cut at {end}");
    }
}

#[test]
fn signatures_of_witnesses_do_not_disturb() {
    let note = key().sign(&checkpoint());
    let verifier = key().verifier(&origin("gw.example/audit"));
    let cosigned = format!("{note}\u{2014} witness.example AAAAAAAA\n");
    assert_eq!(open(cosigned.as_bytes(), &verifier), Ok(checkpoint()));
    let many = "\u{2014} witness.example AAAAAAAA\n".repeat(MAX_SIGNATURES);
    assert_eq!(open(format!("{note}{many}").as_bytes(), &verifier), Err(NoteError::Malformed));
    let twice_once_wrong = format!("{note}{}", note.lines().last().unwrap().replace('A', "B")) + "\n";
    assert!(open(twice_once_wrong.as_bytes(), &verifier).is_err());
}

#[test]
fn a_note_without_signatures_is_refused() {
    let verifier = key().verifier(&origin("gw.example/audit"));
    for note in [String::new(), checkpoint().to_body(), checkpoint().to_body() + "\n", "\n\n".to_owned()] {
        assert_eq!(open(note.as_bytes(), &verifier), Err(NoteError::Malformed), "{note:?}");
    }
}

#[test]
fn a_checkpoint_has_one_spelling() {
    let good = checkpoint().to_body();
    assert_eq!(Checkpoint::parse_body(&good), Ok(checkpoint()));
    for wrong in [
        good.replace("\n42\n", "\n042\n"),
        good.replace("\n42\n", "\n+42\n"),
        good.replace("\n42\n", "\n-42\n"),
        good.replace("\n42\n", "\n18446744073709551616\n"),
        good.replace("gw.example/audit", "https://gw.example/audit"),
        good.replace("gw.example", "gw example"),
        good.replace("=\n", "\n"),
        format!("{good}extension\n"),
        good.trim_end().to_owned(),
    ] {
        assert_eq!(Checkpoint::parse_body(&wrong), Err(NoteError::NotACheckpoint), "{wrong:?}");
    }
}

#[test]
fn the_key_does_not_show_its_seed() {
    let shown = format!("{:?}", LogKey::from_seed(&[0x41; 32]).unwrap());
    assert!(!shown.contains("4141") && !shown.contains("AAAA") && !shown.contains("65, 65"), "{shown}");
}
