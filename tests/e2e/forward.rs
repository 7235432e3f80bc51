//! Traffic that the host only forwards, of a container for example: no process of this host is its subject.

use crate::agent::Manner;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, TOLD_WITHIN, at};

#[test]
fn forwarded_traffic_to_governed_addresses_is_refused_and_to_others_is_not_touched() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (governed, free) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, governed.ip(), "443/tcp")]));
    let guest = lab.guest();
    let (inside, theirs) = (guest.process(), lab.provider());
    let listeners = [governed, free].map(|remote| theirs.listen(remote, Manner::Keep));
    let before = inside.connect(governed).expect("nothing is governed yet");
    let before_there = listeners[0].accept().expect("nothing is governed yet");
    let _daemon = lab.daemon();

    let failure = inside.connect(governed).err().expect("refused");
    assert_eq!(failure.errno, libc::ECONNREFUSED, "the way out refuses as for a process of the host");
    let open = inside.connect(free).expect("nobody governs it");
    let open_there = listeners[1].accept().expect("nobody governs it");
    open.say("word").expect("it is open");
    assert!(open_there.hears("word"));

    // The connection of before learns of it when it next sends, and what it sends does not arrive.
    let _ = before.say("word");
    before.ends_within(TOLD_WITHIN);
    assert!(!before_there.hears("word"));
    inside.echo(at(guest.address(), 8443));
    assert!(theirs.connect_from(at(governed.ip(), 0), at(guest.address(), 8443)).is_err(), "inwards");
    assert!(
        theirs.connect_from(at(free.ip(), 0), at(guest.address(), 8443)).is_ok_and(|socket| socket.echoes())
    );
    lab.expect_attempts(1, &[("service", "stripe"), ("direction", "ingress")]);
}
