use std::os::unix::fs::PermissionsExt;

use chrono::{TimeZone, Utc};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn service(lists: &[(&str, &Arc<str>)]) -> AcceptedService {
    AcceptedService {
        text: "provider = \"Stripe, Inc.\"\n".to_owned(),
        lists: lists.iter().map(|(name, text)| ((*name).to_owned(), Arc::clone(text))).collect(),
        departed: None,
    }
}

fn segment(lists: &[(&str, &Arc<str>)]) -> AcceptedSegment {
    AcceptedSegment {
        text: "subject = { unit = \"payments.service\" }\n".to_owned(),
        lists: lists.iter().map(|(name, text)| ((*name).to_owned(), Arc::clone(text))).collect(),
    }
}

fn sample() -> Accepted {
    let list: Arc<str> = "192.0.2.1\n".into();
    let mut gone = service(&[("api", &list)]);
    gone.departed = Some(Departed {
        at: Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap(),
        covers: Utc.with_ymd_and_hms(2026, 2, 2, 3, 4, 5).unwrap(),
        cause: Cause::Removed,
    });
    Accepted {
        settings_text: Some("[paths]\n".to_owned()),
        services: [(name("gone"), gone), (name("stripe"), service(&[("api", &list), ("other", &list)]))]
            .into(),
        segments: [(name("payments"), segment(&[("api", &list)]))].into(),
    }
}

#[test]
fn what_was_written_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(read(directory.path()), Ok(None));
    for accepted in [Accepted::default(), sample()] {
        write(directory.path(), &accepted).unwrap();
        assert_eq!(read(directory.path()), Ok(Some(accepted)));
    }
}

#[test]
fn the_file_is_json_for_root_only_and_alone() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &sample()).unwrap();
    let path = directory.path().join(FILE);
    let document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["services"]["gone"]["departed"]["cause"], "removed");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn equal_lists_stand_once_and_are_shared_when_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut accepted = sample();
    // The same text from another allocation.
    let again: Arc<str> = "192.0.2.1\n".into();
    accepted.services.insert(name("third"), service(&[("api", &again)]));
    write(directory.path(), &accepted).unwrap();
    let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
    assert_eq!(text.matches("192.0.2.1").count(), 1);
    let read = read(directory.path()).unwrap().unwrap();
    let list = |service: &str| &read.services[&name(service)].lists["api"];
    assert!(Arc::ptr_eq(list("stripe"), list("third")));
    assert!(Arc::ptr_eq(list("stripe"), &read.segments[&name("payments")].lists["api"]));
}

#[test]
fn a_file_that_was_cut_anywhere_is_an_error_that_names_it() {
    let bytes = encode(Path::new(FILE), &sample(), MAX).unwrap();
    for length in 0..bytes.len() {
        let error = decode(Path::new(FILE), &bytes[..length]).unwrap_err();
        assert!(error.to_string().starts_with("accepted.json is damaged"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    fs::create_dir(&path).unwrap();
    let text = read(directory.path()).unwrap_err().to_string();
    assert!(text.contains("accepted.json"), "{text}");
    assert!(write(directory.path(), &sample()).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_too_long_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let file = File::create(directory.path().join(FILE)).unwrap();
    // Sparse: takes no space.
    file.set_len(MAX * 1024).unwrap();
    assert!(matches!(read(directory.path()), Err(AcceptedError::Damaged { .. })));
}

#[test]
fn a_snapshot_that_could_not_be_read_back_is_not_written() {
    let path = Path::new(FILE);
    let length = encode(path, &sample(), MAX).unwrap().len() as u64;
    assert!(encode(path, &sample(), length).is_ok());
    let error = encode(path, &sample(), length - 1).unwrap_err();
    assert!(matches!(error, AcceptedError::TooLong { .. }), "{error}");
}

/// The bytes of a document with a checksum that fits.
fn signed(rest: &str) -> Vec<u8> {
    format!("{BEFORE}{}{BETWEEN}{rest}", hex(&Sha256::digest(rest))).into_bytes()
}

#[test]
fn a_newer_schema_is_told_from_damage() {
    let bytes = signed("\"schema\":2,\"more\":true}\n");
    assert!(matches!(decode(Path::new(FILE), &bytes), Err(AcceptedError::FromTheFuture { found: 2, .. })));
}

#[test]
fn contents_that_do_not_belong_together_are_damage() {
    let with = |services: &str| {
        signed(&format!("\"schema\":1,\"settings_text\":null,\"lists\":{{}},\"services\":{services}}}"))
    };
    assert!(decode(Path::new(FILE), &with("{}")).is_ok());
    for (services, cause) in [
        (r#"{"a":{"text":"","lists":{"api":"00"},"departed":null}}"#, "the text of list \"api\" is missing"),
        (r#"{"A":{"text":"","lists":{},"departed":null}}"#, "not a service name"),
        (
            r#"{"a":{"text":"","lists":{},"departed":{"at":"2026-01-01T00:00:00Z","cause":"x"}}}"#,
            "\"x\" is not a cause",
        ),
        (r#"{"a":{"text":""}}"#, "missing field"),
    ] {
        let text = decode(Path::new(FILE), &with(services)).unwrap_err().to_string();
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn a_file_without_segments_is_as_it_was_before_there_were_any() {
    let without = Accepted { segments: BTreeMap::new(), ..sample() };
    let bytes = encode(Path::new(FILE), &without, MAX).unwrap();
    assert!(!String::from_utf8(bytes.clone()).unwrap().contains("segments"));
    assert_eq!(decode(Path::new(FILE), &bytes), Ok(without));
}

#[test]
fn a_segment_without_the_text_of_its_list_is_damage() {
    let bytes = signed(
        "\"schema\":1,\"settings_text\":null,\"lists\":{},\"services\":{},\
         \"segments\":{\"a\":{\"text\":\"\",\"lists\":{\"api\":\"00\"}}}}",
    );
    let text = decode(Path::new(FILE), &bytes).unwrap_err().to_string();
    assert!(text.contains("the text of list \"api\" is missing"), "{text}");
}

proptest! {
    #[test]
    fn any_byte_that_was_edited_is_noticed(at: prop::sample::Index, to: u8) {
        let good = encode(Path::new(FILE), &sample(), MAX).unwrap();
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] = to;
        prop_assert_eq!(decode(Path::new(FILE), &bytes).is_ok(), bytes == good);
    }
}
