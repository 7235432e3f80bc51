use proptest::prelude::*;

use super::*;
use crate::store::Detail;

fn row(texts: [&str; 5], service: Option<&str>) -> LedgerRow {
    let [at, kind, actor, detail, hash] = texts.map(str::to_owned);
    LedgerRow {
        seq: 7,
        at,
        kind,
        service: service.map(str::to_owned),
        actor,
        detail: Detail::new(&serde_json::json!({ "text": detail })),
        prev: "0".repeat(64),
        hash,
    }
}

fn written(format: Format, items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, format).unwrap();
    items.iter().for_each(|item| writer.item(item).unwrap());
    out
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, Problem> {
    Reader::new(bytes)?.collect()
}

fn items() -> Vec<Item> {
    vec![
        Item::Excerpt(Excerpt { since: None, service: Some("stripe".to_owned()) }),
        Item::Entry(row(["2026", "window.opened", "=1+1", "two\nlines, \"quoted\"", "h"], Some("stripe"))),
        Item::Checkpoint("picoseg-checkpoint v1".to_owned()),
        Item::Head("picoseg-head v1".to_owned()),
    ]
}

#[test]
fn the_formats_are_as_documented() {
    let jsonl = String::from_utf8(written(Format::Jsonl, &items())).unwrap();
    let lines: Vec<_> = jsonl.lines().collect();
    assert_eq!(lines[0], r#"{"excerpt":{"since":null,"service":"stripe"}}"#);
    assert!(
        lines[1].starts_with(r#"{"seq":7,"at":"2026","kind":"window.opened","service":"stripe","#),
        "{jsonl}"
    );
    assert_eq!(lines[2], r#"{"checkpoint":"picoseg-checkpoint v1"}"#);
    assert_eq!(lines[3], r#"{"head":"picoseg-head v1"}"#);
    let csv = String::from_utf8(written(Format::Csv, &items())).unwrap();
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "seq,at,kind,service,actor,detail,prev,hash");
    assert!(lines[2].starts_with("7,2026,window.opened,stripe,'=1+1,"), "{csv}");
    assert_eq!(lines[4], ",,head,,,picoseg-head v1,,");
}

#[test]
fn no_cell_is_a_formula_and_all_read_back() {
    for text in ["=1", "+1", "-1", "@x", "\tx", "\rx", "'", "''", "'=1", "", " =1"] {
        let items = [Item::Entry(row([text; 5], Some(text))), Item::Entry(row([text; 5], None))];
        let csv = written(Format::Csv, &items);
        let mut cells = ::csv::Reader::from_reader(&csv[..]);
        for cell in cells.records().map(Result::unwrap).collect::<Vec<_>>().iter().flatten() {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell:?}");
        }
        assert_eq!(read(&csv).unwrap(), items, "{text:?}");
    }
}

#[test]
fn no_byte_of_a_file_can_be_another_one_and_mean_the_same() {
    for format in [Format::Jsonl, Format::Csv] {
        let good = written(format, &items());
        for at in 0..good.len() {
            for flip in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << flip;
                assert!(read(&bytes).map_or(true, |read| read != items()), "{format:?} {at} {flip}");
            }
            assert!(read(&good[..at]).map_or(true, |read| read != items()), "{format:?} cut at {at}");
        }
    }
}

#[test]
fn what_two_programs_would_read_differently_is_refused() {
    let line = String::from_utf8(written(Format::Jsonl, &items()[1..2])).unwrap();
    assert!(read(line.as_bytes()).is_ok());
    for odd in [
        line.replace("\"actor\":\"=1+1\"", "\"actor\":\"root\",\"actor\":\"=1+1\""),
        line.replace("{\"text\":", "{\"text\":\"other\",\"text\":"),
        line.replace("\"seq\":7", "\"seq\": 7"),
        line.replace("window", "\\u0077indow"),
        line.replace('\n', "\r\n"),
        format!("\n{line}"),
        line.trim_end().to_owned(),
    ] {
        assert_ne!(odd, line);
        assert!(read(odd.as_bytes()).is_err(), "{odd}");
    }
}

proptest! {
    #[test]
    fn any_entry_reads_back(texts: [String; 5], service: Option<String>) {
        let entry = Item::Entry(row(texts.each_ref().map(String::as_str), service.as_deref()));
        for format in [Format::Jsonl, Format::Csv] {
            prop_assert_eq!(read(&written(format, std::slice::from_ref(&entry))).unwrap(), std::slice::from_ref(&entry));
        }
    }
}
