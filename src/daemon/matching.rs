//! Pure: whose the packets of sources are, by what the kernel counted for each service.
//!
//! The sets say from where, and for a good guess the address says whose; the counters of services say how many. Never is
//! more given to a service than its counter has, so that the sums are those of the counters: at a change of owners, and
//! where several own an address, the counters tell which of them refused.

/// Packets of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub packets: u64,
    /// Whose they should be, the best guess first: places in the list of accounts.
    pub accounts: Vec<usize>,
}

/// So many packets of a claim are an account's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub claim: usize,
    pub account: usize,
    pub packets: u64,
}

/// Gives packets to those who should have them, first everybody to the best guess; takes from `open`, what each account still
/// lacks, and from the claims.
pub fn give(claims: &mut [Claim], open: &mut [u64]) -> Vec<Given> {
    let mut given = Vec::new();
    let deepest = claims.iter().map(|claim| claim.accounts.len()).max().unwrap_or(0);
    for depth in 0..deepest {
        for (index, claim) in claims.iter_mut().enumerate() {
            if let Some(account) = claim.accounts.get(depth) {
                given.extend(take(index, claim, *account, open));
            }
        }
    }
    given
}

/// Gives what nobody should have to whoever lacks anything.
pub fn give_to_anybody(claims: &mut [Claim], open: &mut [u64]) -> Vec<Given> {
    let mut given = Vec::new();
    let mut account = 0;
    for (index, claim) in claims.iter_mut().enumerate() {
        while claim.packets > 0 && account < open.len() {
            given.extend(take(index, claim, account, open));
            if claim.packets > 0 {
                account += 1;
            }
        }
    }
    given
}

fn take(index: usize, claim: &mut Claim, account: usize, open: &mut [u64]) -> Option<Given> {
    let open = open.get_mut(account)?;
    let packets = claim.packets.min(*open);
    claim.packets -= packets;
    *open -= packets;
    (packets > 0).then_some(Given { claim: index, account, packets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(packets: u64, accounts: &[usize]) -> Claim {
        Claim { packets, accounts: accounts.to_vec() }
    }

    #[test]
    fn of_several_owners_the_counters_tell_which() {
        let (mut claims, mut open) = (vec![claim(7, &[0, 1]), claim(2, &[0])], vec![4, 5]);
        let given = give(&mut claims, &mut open);
        let of = |account| given.iter().filter(|g| g.account == account).map(|g| g.packets).sum::<u64>();
        assert_eq!((of(0), of(1)), (4, 3));
        assert_eq!(open, [0, 2]);
        assert_eq!(claims[1].packets, 2, "its owner's counter has no more");
        assert_eq!(give_to_anybody(&mut claims, &mut open), [Given { claim: 1, account: 1, packets: 2 }]);
        assert_eq!(open, [0, 0]);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_was_counted_and_no_packet_is_given_twice(
            claims in prop::collection::vec((0u64..9, prop::collection::vec(0usize..5, 0..4)), 0..20),
            counted in prop::collection::vec(0u64..30, 5),
        ) {
            let all: Vec<_> = claims.into_iter().map(|(packets, accounts)| Claim { packets, accounts }).collect();
            let (mut left, mut open) = (all.clone(), counted.clone());
            let mut given = give(&mut left, &mut open);
            given.extend(give_to_anybody(&mut left, &mut open));
            for (account, counted) in counted.iter().enumerate() {
                let sum: u64 = given.iter().filter(|g| g.account == account).map(|g| g.packets).sum();
                prop_assert_eq!(sum + open[account], *counted);
            }
            for (index, claim) in all.iter().enumerate() {
                let sum: u64 = given.iter().filter(|g| g.claim == index).map(|g| g.packets).sum();
                prop_assert_eq!(sum + left[index].packets, claim.packets);
            }
            let (short, spare) = (left.iter().any(|c| c.packets > 0), open.iter().any(|o| *o > 0));
            prop_assert!(!(short && spare));
        }
    }
}
