//! Whether the expressions of a rule have names: libnftnl reads the name of each without asking whether there is one.

use crate::kernel::netlink::{Attribute, Attributes};

/// `NFTA_RULE_EXPRESSIONS`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_DYNSET_EXPR` and `NFTA_DYNSET_EXPRESSIONS`, nf_tables.h.
const RULE_EXPRESSIONS: u16 = 4;
const NAME: u16 = 1;
const DATA: u16 = 2;
const SET_EXPRESSION: u16 = 7;
const SET_EXPRESSIONS: u16 = 10;

/// True when every expression in a message of a rule has a name, those inside others too.
pub fn all_are_named(message: &[u8]) -> bool {
    let attributes = Attributes::new(message.get(super::attributes::PREAMBLE..).unwrap_or_default());
    attributes.filter(|attribute| attribute.kind == RULE_EXPRESSIONS).all(|list| list.nested().all(is_named))
}

fn is_named(expression: Attribute<'_>) -> bool {
    let inner = expression.nested().filter(|attribute| attribute.kind == DATA).flat_map(|data| data.nested());
    let mut inner = inner.map(|attribute| match attribute.kind {
        // Of another expression than `dynset` these are something else, which is read as if it were one: it is named, or
        // the rule is none that we or nft write.
        SET_EXPRESSION => has_name(attribute),
        SET_EXPRESSIONS => attribute.nested().all(has_name),
        _ => true,
    });
    has_name(expression) && (!is_dynamic(expression) || inner.all(|named| named))
}

fn has_name(expression: Attribute<'_>) -> bool {
    expression.nested().any(|attribute| attribute.kind == NAME)
}

fn is_dynamic(expression: Attribute<'_>) -> bool {
    expression.nested().any(|attribute| attribute.kind == NAME && attribute.text() == "dynset")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::commit::attributes::Request;
    use crate::kernel::ffi;

    fn rule(fill: impl FnOnce(Request) -> Request) -> Vec<u8> {
        let list = |request: Request| request.nested(1, fill);
        Request::new(libc::NFT_MSG_NEWRULE as u16, 0, 1).nested(RULE_EXPRESSIONS, list).finish()
    }

    #[test]
    fn an_expression_without_a_name_is_no_rule_and_does_not_reach_libnftnl() {
        let named = rule(|one| one.text(NAME, "counter").nested(DATA, |data| data));
        assert!(all_are_named(&named) && ffi::Rule::parse(&named).is_some());
        let nameless = rule(|one| one.nested(DATA, |data| data));
        assert!(!all_are_named(&nameless) && ffi::Rule::parse(&nameless).is_none());
        for kind in [SET_EXPRESSION, SET_EXPRESSIONS] {
            let inside = rule(|one| {
                one.text(NAME, "dynset")
                    .nested(DATA, |data| data.nested(kind, |inner| inner.nested(1, |one| one.u32(DATA, 0))))
            });
            assert!(ffi::Rule::parse(&inside).is_none(), "{kind}");
        }
    }
}
