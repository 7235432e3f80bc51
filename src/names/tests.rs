use super::*;

fn at(minute: i64) -> Time {
    Time::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolved(texts: &[&str]) -> News {
    News::Resolved { addresses: texts.iter().map(|text| address(text)).collect(), unanswered: None }
}

fn admitted(name: &Name, scope: Scope, now: Time) -> Vec<String> {
    name.admitted(scope, now).map(|address| address.to_string()).collect()
}

fn refused(name: &Name, scope: Scope, now: Time) -> Vec<String> {
    name.refused(scope, now).map(|address| address.to_string()).collect()
}

fn nobody() -> BTreeSet<IpAddr> {
    BTreeSet::new()
}

#[test]
fn an_address_that_left_is_admitted_for_its_grace_in_the_window_in_which_it_left() {
    let mut name = Name::default();
    assert!(name.take(&resolved(&["192.0.2.1", "192.0.2.2"]), at(0)));
    assert!(!name.take(&resolved(&["192.0.2.1", "192.0.2.2"]), at(1)), "the same again");
    assert!(name.take(&resolved(&["192.0.2.2"]), at(2)));
    let now = at(3);
    assert_eq!(admitted(&name, Scope::Open(at(0)), now), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(admitted(&name, Scope::Open(at(3)), now), ["192.0.2.2"], "another window");
    assert_eq!(refused(&name, Scope::Open(at(3)), now), ["192.0.2.1"]);
    assert_eq!(admitted(&name, Scope::Shut, now), ["192.0.2.2"]);
    assert_eq!(refused(&name, Scope::Shut, now), ["192.0.2.1"]);
    assert_eq!(refused(&name, Scope::Ever, now), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(admitted(&name, Scope::Open(at(0)), at(12)), ["192.0.2.2"], "ten minutes are over");
    assert!(name.is_due(at(12)) && name.pass(at(12), &nobody()));
    assert!(!name.is_due(at(13)));
    assert_eq!(refused(&name, Scope::Ever, at(100)), ["192.0.2.1", "192.0.2.2"], "never forgotten");
}

#[test]
fn an_address_with_a_connection_stays() {
    let mut name = Name::default();
    name.take(&resolved(&["192.0.2.1"]), at(0));
    name.take(&resolved(&["192.0.2.2"]), at(1));
    let gone = address("192.0.2.1");
    assert_eq!(name.leaving(at(11)).collect::<Vec<_>>(), [gone]);
    name.pass(at(11), &BTreeSet::from([gone]));
    assert_eq!(admitted(&name, Scope::Open(at(0)), at(20)), ["192.0.2.1", "192.0.2.2"]);
    name.pass(at(21), &nobody());
    assert_eq!(admitted(&name, Scope::Open(at(0)), at(22)), ["192.0.2.2"]);
}

#[test]
fn a_failure_changes_nothing_and_says_why() {
    let mut name = Name::default();
    name.take(&resolved(&["192.0.2.1"]), at(0));
    assert!(!name.take(&News::Failed("no answer".into()), at(1)));
    assert_eq!(name.failure, Some((at(1), "no answer".into())));
    assert_eq!(admitted(&name, Scope::Shut, at(500)), ["192.0.2.1"]);
    name.take(&resolved(&["192.0.2.1"]), at(2));
    assert_eq!(name.failure, None);
    assert_eq!(name.addresses[&address("192.0.2.1")].since, at(0));
}

#[test]
fn a_family_that_is_not_answered_stays() {
    let mut name = Name::default();
    name.take(&resolved(&["192.0.2.1", "2001:db8::1"]), at(0));
    let addresses = BTreeSet::from([address("192.0.2.2")]);
    name.take(&News::Resolved { addresses, unanswered: Some(Family::V6) }, at(1));
    assert_eq!(admitted(&name, Scope::Shut, at(1)), ["192.0.2.2", "2001:db8::1"]);
}

#[test]
fn what_was_learned_holds_as_long_as_its_answer_and_then_leaves() {
    let mut name = Name::default();
    let learned = News::Learned { address: address("192.0.2.7"), until: at(2) };
    assert!(name.take(&learned, at(0)));
    assert!(!name.take(&learned, at(1)));
    name.take(&resolved(&["192.0.2.1"]), at(1));
    assert_eq!(
        admitted(&name, Scope::Shut, at(1)),
        ["192.0.2.1", "192.0.2.7"],
        "the resolver's does not end it"
    );
    assert!(name.pass(at(2), &nobody()));
    assert_eq!(admitted(&name, Scope::Shut, at(2)), ["192.0.2.1"]);
    assert_eq!(admitted(&name, Scope::Open(at(0)), at(11)), ["192.0.2.1", "192.0.2.7"], "its grace");
}

#[test]
fn a_name_keeps_no_more_than_it_may_and_what_left_goes_first() {
    let mut name = Name::default();
    name.take(&resolved(&["198.51.100.1"]), at(0));
    for number in 0..=u32::try_from(MOST).unwrap() {
        let address = std::net::Ipv4Addr::from_bits(0xc600_0000 + number).into();
        name.take(&News::Learned { address, until: at(1) }, at(0));
        if number == 7 {
            name.pass(at(2), &nobody());
        }
    }
    assert_eq!(name.addresses.len(), MOST);
    assert!(name.addresses.contains_key(&address("198.51.100.1")), "the resolver's own");
    assert!(!name.addresses.contains_key(&address("198.0.0.0")), "it left first");
}

fn service(to: &str) -> Service {
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2030-01-01T00:00:00Z\n[[egress]]\nsubject = {{ unit = \"u.service\" }}\nto = [{to}]\n\
         ports = [\"443/tcp\"]\n"
    );
    let name = crate::model::ServiceName::new("s").unwrap();
    let path = std::path::Path::new("s.toml");
    let settings = crate::model::Settings::default();
    crate::config::parse_service(path, &name, &text, &|_| None, &settings).0.unwrap()
}

#[test]
fn a_service_has_the_addresses_of_its_names_beside_its_own() {
    let host = HostName::new("api.example.com").unwrap();
    let mut name = Name::default();
    name.take(&resolved(&["203.0.113.1", "10.0.0.1", "10.1.0.1", "::1"]), at(0));
    let names = Names::unit(host, Arc::new(name));
    let file = service("\"api.example.com\", \"10.1.0.0/16\"");
    let service = effective(&file, &names, Scope::Open(at(0)), at(1)).unwrap();
    let prefixes: Vec<_> = service.policies[0].prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(
        prefixes,
        ["10.1.0.0/16", "10.1.0.1", "203.0.113.1"],
        "private ones only where they are listed"
    );
    let ended = effective(&file, &names, Scope::Ever, at(1)).unwrap();
    assert_eq!(ended.policies[0].prefixes, file.policies[0].prefixes);
    assert_eq!(
        ended.watched.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.1", "203.0.113.1"]
    );
    assert_eq!(effective(&super::tests::service("\"10.0.0.0/8\""), &names, Scope::Shut, at(1)), None);
}

#[test]
fn a_segment_has_the_addresses_of_its_names_until_their_grace_is_over() {
    let host = HostName::new("api.example.com").unwrap();
    let mut name = Name::default();
    name.take(&resolved(&["203.0.113.1", "2001:db8::1", "10.0.0.1", "10.1.0.1"]), at(0));
    name.take(&resolved(&["203.0.113.2", "2001:db8::1", "10.0.0.1", "10.1.0.1"]), at(1));
    let names = Names::unit(host, Arc::new(name));
    let segment = |to: &str| {
        let text = format!(
            "subject = {{ unit = \"u.service\" }}\n[[allow]]\ndirection = \"egress\"\nto = [{to}]\n\
             ports = [\"443/tcp\"]\n[[allow]]\ndirection = \"ingress\"\nfrom = [\"api.example.com\"]\n\
             ports = [\"22/tcp\"]\n"
        );
        let name = crate::model::SegmentName::new("s").unwrap();
        let path = std::path::Path::new("s.toml");
        crate::config::parse_segment(path, &name, &text, &|_| None).0.unwrap()
    };
    let file = segment("\"api.example.com\", \"10.1.0.0/16\"");
    let prefixes = |minute| {
        let segment = allowed(&file, &names, at(minute)).unwrap();
        let texts = |allow: &crate::model::Allow| allow.prefixes.iter().map(ToString::to_string).collect();
        segment.allow.iter().map(texts).collect::<Vec<Vec<String>>>()
    };
    let (public, left) = (["203.0.113.2", "2001:db8::1"], "203.0.113.1");
    let own = ["10.1.0.0/16", "10.1.0.1"];
    assert_eq!(prefixes(2), [[&own[..], &[left], &public].concat(), [&[left], &public[..]].concat()]);
    assert_eq!(
        prefixes(11),
        [[&own[..], &public].concat(), public.to_vec()],
        "private ones only where listed"
    );
}
