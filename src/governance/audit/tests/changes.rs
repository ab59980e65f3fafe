//! No change goes unseen.

use std::{fs, path::Path};

use super::{super::line, *};
use crate::types::hexadecimal;

#[test]
fn what_was_written_is_found_to_be_that() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let report = check_anchored(&directory, &anchor).expect("nothing is wrong");
    assert!(report.segments > 2, "{report:?}");
    assert_eq!((report.first, report.last, report.signed_through), (1, report.records, report.records));
    assert_eq!((report.unfinished, report.pruned_through), (1, None));
    assert_eq!((report.anchored, report.anchored_but_pruned), (report.checkpoints, 0));
    assert!(report.checkpoints >= report.segments);
}

#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    for (index, path) in segments(&directory).into_iter().enumerate() {
        let bytes = fs::read(&path).expect("a segment");
        // Every third byte of one segment, and of the others enough that every member of a line is met.
        let step = if index == 1 { 3 } else { 17 };
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).expect("written");
            let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            let found = broken(check(&directory));
            assert_eq!((&found.file, found.line), (&path, Some(line)), "byte {at}: {found}");
        }
        fs::write(&path, &bytes).expect("written");
    }
    check(&directory).expect("all is as it was");
}

/// Each with what it does to lines and where that is found.
#[test]
fn a_line_that_is_missing_or_elsewhere_or_there_twice_is_found() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let files = segments(&directory);
    for (index, path) in files.iter().enumerate() {
        let bytes = fs::read(path).expect("a segment");
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 0..lines.len() {
            let mut dropped = lines.clone();
            dropped.remove(at);
            let mut twice = lines.clone();
            twice.insert(at, lines[at]);
            let mut swapped = lines.clone();
            swapped.swap(at, (at + 1) % lines.len());
            for (what, changed) in [("dropped", dropped), ("twice", twice), ("swapped", swapped)] {
                fs::write(path, changed.concat()).expect("written");
                let is_end_of_all = index + 1 == files.len() && at + 1 == lines.len();
                if what == "dropped" && is_end_of_all {
                    // Nothing in the log can tell; what was kept elsewhere can.
                    check(&directory).expect("it looks as if it had ended earlier");
                    broken(check_anchored(&directory, &anchor));
                } else {
                    broken(check(&directory));
                }
            }
        }
        fs::write(path, &bytes).expect("written");
    }
    check(&directory).expect("all is as it was");
}

#[test]
fn an_end_that_was_cut_off_is_found_by_what_was_kept_elsewhere() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let files = segments(&directory);
    let last = files.last().expect("a segment");
    let bytes = fs::read(last).expect("a segment");
    for len in 0..bytes.len() {
        fs::write(last, &bytes[..len]).expect("written");
        let is_whole = len > 0 && bytes[len - 1] == b'\n';
        assert_eq!(check(&directory).is_ok(), is_whole, "{len} bytes");
        broken(check_anchored(&directory, &anchor));
    }
    fs::remove_file(last).expect("removed");
    check(&directory).expect("it looks as if it had ended earlier");
    let found = broken(check_anchored(&directory, &anchor));
    assert!(found.reason.contains("its end was cut"), "{found}");
}

#[test]
fn segments_that_are_missing_or_of_another_log_are_found() {
    let (folder, anchor) = sample();
    let (other_folder, _) = sample();
    let directory = folder.path().join("audit");
    let (files, others) = (segments(&directory), segments(&other_folder.path().join("audit")));
    for path in &files[..files.len() - 1] {
        let bytes = fs::read(path).expect("a segment");
        fs::remove_file(path).expect("removed");
        broken(check(&directory));
        // One that another key has signed.
        fs::copy(&others[0], path).expect("copied");
        broken(check(&directory));
        fs::write(path, bytes).expect("written");
    }
    // A whole other log in its place, with its key: only what was kept elsewhere tells.
    let other = other_folder.path().join("audit");
    check(&other).expect("it is a log");
    broken(check_anchored(&other, &anchor));
    let key = Evidence { public_key: Some(directory.join("signing.pub")), ..Evidence::default() };
    broken(verify(&other, &key));
}

/// Whoever can write the log can write the hashes anew, but not sign them.
#[test]
fn hashes_that_were_made_anew_are_found_at_the_next_signature() {
    let (folder, _) = sample();
    let directory = folder.path().join("audit");
    let path = &segments(&directory)[0];
    let text = fs::read_to_string(path).expect("a segment");
    let mut forged = Vec::new();
    let mut prev = line::NO_HASH;
    for line in text.lines() {
        let read = line::Line::parse(line.as_bytes()).expect("a line");
        let line = line.replace("thing 0", "thing 9");
        let old = format!("\"prev\":\"{}\"", hexadecimal(&read.prev));
        let line = line.replace(&old, &format!("\"prev\":\"{}\"", hexadecimal(&prev)));
        let hashed = &line[..line.rfind(",\"hash\"").expect("a hash")];
        prev = line::sha256(hashed.as_bytes());
        forged.push(format!("{hashed},\"hash\":\"{}\"}}\n", hexadecimal(&prev)));
    }
    fs::write(path, forged.concat()).expect("written");
    let found = broken(check(&directory));
    assert_eq!((found.file.as_path(), found.reason.as_str()), (path.as_path(), "its signature is wrong"));
}

#[test]
fn checkpoints_from_elsewhere_must_be_what_they_say() {
    let (folder, anchor) = sample();
    let directory = folder.path().join("audit");
    let text = fs::read_to_string(&anchor).expect("checkpoints");
    let check = |text: &str| {
        let path = folder.path().join("other");
        fs::write(&path, text).expect("written");
        broken(check_anchored(&directory, &path))
    };
    check("{}\n");
    check(&text.replacen("checkpoint", "checkpoinT", 1));
    assert_eq!(check(text.split_at(10).1).line, Some(1));
    let act = fs::read_to_string(&segments(&directory)[0]).expect("a segment");
    assert_eq!(check(act.lines().nth(1).expect("a line")).reason, "it is no checkpoint");
    assert!(!Path::new("other").exists());
}
