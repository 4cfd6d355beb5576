//! A boot that went wrong is noticed.

use dmakit_addr::NodeId;

use super::*;
use crate::scenario::numa::controls::{SEED, failures, page, report};

struct Carved {
    machine: Machine,
    asked: AreaParams,
    areas: Vec<Reservation>,
}

fn boot(page: &Page) -> Carved {
    let machine = board::machine(page, SEED).unwrap();
    let asked = page.areas.clone();
    let map = board::map(&machine, None).unwrap();
    let requests = asked.requests(&map, board::low_limit());
    let areas = carve(&machine, &requests).unwrap();
    Carved {
        machine,
        asked,
        areas,
    }
}

fn position(carved: &Carved, purpose: Purpose) -> usize {
    let mut areas = carved.areas.iter();
    areas
        .position(|one| one.request.purpose == purpose)
        .unwrap()
}

#[test]
fn an_area_that_lies_on_another_node_than_asked_is_noticed() {
    let page = page("boot-carving");
    let (mut carved, mut report) = (boot(&page), report(&page));
    on_their_nodes(&carved.machine, &carved.areas, &mut report);
    assert_eq!(failures(&report, CheckName::ExactNode), 0);
    let listed = position(&carved, Purpose::Listed(NodeId::new(1)));
    carved.areas[listed].request.node = Some(NodeId::new(3));
    on_their_nodes(&carved.machine, &carved.areas, &mut report);
    assert_eq!(failures(&report, CheckName::ExactNode), 1);
}

#[test]
fn an_area_that_another_lost_by_a_failure_is_noticed() {
    let page = page("boot-carving");
    let (mut carved, mut report) = (boot(&page), report(&page));
    others_left(&carved.machine, &carved.areas, &mut report).unwrap();
    assert_eq!(failures(&report, CheckName::OthersLeft), 0);
    let [lost, failed] = [1, 2].map(|node| Purpose::PerNode(NodeId::new(node)));
    let (lost, failed) = (position(&carved, lost), position(&carved, failed));
    let reason = match &carved.areas[failed].outcome {
        Outcome::Failed(reason) => Outcome::Failed(*reason),
        other => panic!("{other:?}"),
    };
    carved.areas[lost].outcome = reason;
    others_left(&carved.machine, &carved.areas, &mut report).unwrap();
    assert!(failures(&report, CheckName::OthersLeft) > 0);
}

#[test]
fn a_boot_line_that_asks_for_something_else_is_noticed() {
    let page = page("boot-carving");
    let (carved, mut report) = (boot(&page), report(&page));
    let mut line = effective(&carved.asked, &carved.areas);
    same_again(&carved.machine, &line, &carved.areas, &mut report).unwrap();
    assert_eq!(failures(&report, CheckName::BootLine), 0);
    line.numa_cma = None;
    same_again(&carved.machine, &line, &carved.areas, &mut report).unwrap();
    assert_eq!(failures(&report, CheckName::BootLine), 1);
}
