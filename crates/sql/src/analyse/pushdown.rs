//! WHERE below a join: conditions on the stream's own columns are checked before the look-up, not after it.
//!
//! A join of a stream with a table (materialised or behind a cache), inner or left, keeps the stream's columns in
//! front. A conjunct that reads only those gives the same answer before the join, and spares the look-ups of the rows
//! that it drops.

use herdsman_stream::expr::Expr;
use herdsman_stream::plan::{JoinKind, Node};
use herdsman_stream::topology::schema_of;

/// `node` filtered by `predicate`, as deep as it goes.
pub(super) fn filtered(node: Node, predicate: Expr) -> Node {
    match node {
        Node::CacheJoin { left, table, key, kind } => {
            let (below, above) = split(&left, predicate);
            let left = below.into_iter().fold(left, |left, part| Box::new(filtered(*left, part)));
            above_all(Node::CacheJoin { left, table, key, kind }, above)
        }
        Node::StreamTableJoin { left, right, kind: kind @ (JoinKind::Inner | JoinKind::Left), key_name } => {
            let (below, above) = split(&left, predicate);
            let left = below.into_iter().fold(left, |left, part| Box::new(filtered(*left, part)));
            above_all(Node::StreamTableJoin { left, right, kind, key_name }, above)
        }
        node => Node::Filter { input: Box::new(node), predicate },
    }
}

fn above_all(node: Node, parts: Vec<Expr>) -> Node {
    let all = parts.into_iter().reduce(|left, right| Expr::And(Box::new(left), Box::new(right)));
    match all {
        Some(predicate) => Node::Filter { input: Box::new(node), predicate },
        None => node,
    }
}

/// The conjuncts that read only columns of `left`, and the others.
fn split(left: &Node, predicate: Expr) -> (Vec<Expr>, Vec<Expr>) {
    let own = schema_of(left).len();
    let mut parts = Vec::new();
    conjuncts(predicate, &mut parts);
    parts.into_iter().partition(|part| reads_only(part, own))
}

fn conjuncts(expr: Expr, parts: &mut Vec<Expr>) {
    match expr {
        Expr::And(left, right) => {
            conjuncts(*left, parts);
            conjuncts(*right, parts);
        }
        other => parts.push(other),
    }
}

/// Whether every column of `expr` has an index below `end`.
fn reads_only(expr: &Expr, end: usize) -> bool {
    let reads = |expr: &Expr| reads_only(expr, end);
    match expr {
        Expr::Column { index, .. } => *index < end,
        Expr::Literal { .. } => true,
        Expr::Cast { input, .. } | Expr::Field { input, .. } | Expr::IsNull { input, .. } => reads(input),
        Expr::Negate(input) | Expr::Not(input) => reads(input),
        Expr::Arithmetic { left, right, .. } | Expr::Compare { left, right, .. } => {
            reads(left) && reads(right)
        }
        Expr::And(left, right) | Expr::Or(left, right) => reads(left) && reads(right),
        Expr::Between { input, low, high, .. } => reads(input) && reads(low) && reads(high),
        Expr::In { input, list, .. } => reads(input) && list.iter().all(reads),
        Expr::Like { input, pattern, .. } => reads(input) && reads(pattern),
        Expr::Case { branches, otherwise, .. } => {
            branches.iter().all(|(when, then)| reads(when) && reads(then))
                && otherwise.as_deref().is_none_or(reads)
        }
        Expr::Call { args, .. } => args.iter().all(reads),
        Expr::Subscript { input, index, .. } => reads(input) && reads(index),
        Expr::MakeArray { elements, .. } => elements.iter().all(reads),
        Expr::MakeStruct { fields, .. } => fields.iter().all(reads),
        Expr::MakeMap { entries, .. } => entries.iter().all(|(key, value)| reads(key) && reads(value)),
        // its parameters are numbered behind the columns of its own input, so it stays where it was typed
        Expr::Lambda { .. } => false,
    }
}
