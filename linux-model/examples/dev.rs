use dmakit_addr::Direction;
use dmakit_linux_model::*;
use std::collections::BTreeMap;
fn hex(s: &str) -> u64 { u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap() }
fn dir(s: &str) -> Direction { match s { "TO_DEVICE" | "1" => Direction::ToDevice, "FROM_DEVICE" | "2" => Direction::FromDevice, _ => Direction::Bidirectional } }
fn fields(s: &str) -> BTreeMap<&str, &str> { s.split(' ').filter_map(|t| t.split_once('=')).collect() }
fn list(s: &str) -> Vec<u64> { s.trim_matches(|c| c == '{' || c == '}').split(',').filter(|x| !x.is_empty()).map(hex).collect() }
fn main() {
    for path in std::env::args().skip(1) { one(&path); }
}
fn one(path: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let side = std::fs::read_to_string(path.replace("/tmp/m/", "/work/shared/traces/").replace(".txt", ".toml")).unwrap();
    let mut names: Vec<String> = vec![];
    let mut ing = Ingest::new();
    for line in text.lines() {
        if line.starts_with('#') { continue; }
        let Some(b) = line.find(" [") else { continue };
        let (task, rest) = line.split_at(b);
        let task = task.trim();
        let pid: u32 = task.rsplit_once('-').unwrap().1.parse().unwrap();
        let rest = &rest[2..];
        let cpu: u32 = rest[..3].parse().unwrap();
        let rest = rest[4..].trim_start();
        let (flags, rest) = rest.split_once(' ').unwrap();
        let context = match flags.as_bytes()[2] { b'h' | b'H' => Context::Hardirq, b's' => Context::Softirq, _ => Context::Task };
        let (ts, rest) = rest.trim_start().split_once(": ").unwrap();
        let (a, c) = ts.split_once('.').unwrap();
        let at_ns = a.parse::<u64>().unwrap() * 1_000_000_000 + c.parse::<u64>().unwrap() * 1000;
        let (name, body) = rest.split_once(": ").unwrap();
        let f = fields(body);
        let mut dev = |d: &str| { let d = d.trim_matches('"'); match names.iter().position(|n| n == d) { Some(i) => i as u32, None => { names.push(d.to_owned()); names.len() as u32 - 1 } } };
        let first = body.split(' ').next().unwrap();
        let kind = match name {
            "swiotlb_bounced" => EventKind::Bounced { device: dev(body.split(' ').nth(1).unwrap()), dma_mask: hex(f["dma_mask"]), original: hex(f["dev_addr"]), bytes: f["size"].parse().unwrap(), is_forced: body.ends_with("FORCE") },
            "dma_map_page" => { let d = hex(f["dma_addr"]); EventKind::MapPage { device: dev(first), direction: dir(f["dir"]), dma: (d != u64::MAX).then_some(d), bytes: f["size"].parse().unwrap(), original: hex(f["phys_addr"]) } }
            "dma_unmap_page" => EventKind::UnmapPage { device: dev(first), direction: dir(f["dir"]), dma: hex(f["dma_addr"]), bytes: f["size"].parse().unwrap(), skips_sync: f["attrs"].contains("SKIP_CPU") },
            "dma_map_sg" => { let (d, s, p) = (list(f["dma_addrs"]), list(f["sizes"]), list(f["phys_addrs"])); let count = f["nents"].split_once('/').unwrap().1.parse().unwrap();
                EventKind::MapSg { device: dev(first), direction: dir(f["dir"]), entries: (0..p.len()).map(|i| SgEntry { original: p[i], dma: *d.get(i).unwrap_or(&u64::MAX), bytes: *s.get(i).unwrap_or(&0) }).collect(), count } }
            "dma_unmap_sg" => EventKind::UnmapSg { device: dev(first), direction: dir(f["dir"]), originals: list(f["phys_addrs"]), skips_sync: f["attrs"].contains("SKIP_CPU") },
            "sw_map" => EventKind::SlotWanted,
            "sw_map_ret" => { let t = hex(f["tlb"]); EventKind::SlotReturned { tlb: (t != u64::MAX).then_some(t) } }
            "sw_unmap" => EventKind::SlotReleased { device: dev(f["dev"]), direction: dir(f["dir"]), tlb: hex(f["tlb"]), bytes: f["size"].parse().unwrap() },
            "tracing_mark_write" => match body.split_once(' ') { Some(("PHASE_BEGIN", n)) => EventKind::PhaseBegin { name: n.to_owned() }, Some(("PHASE_END", _)) => EventKind::PhaseEnd, _ => EventKind::Other },
            _ => EventKind::Other,
        };
        ing.push(&Event { at_ns, cpu, pid, context, kind });
    }
    let (mut demand, rec) = ing.finish();
    let nvme = side.contains("drv=nvme");
    for d in &mut demand.devices { if nvme { d.limits.min_align_mask = 4095; } }
    let grab = |k: &str| -> Vec<u32> { side.lines().filter_map(|l| l.strip_prefix(&format!("{k} = "))).map(|v| v.parse().unwrap()).collect() };
    let hi = grab("swiotlb_hiwater");
    let ns = grab("swiotlb_nslabs");
    let mut counts = BTreeMap::new();
    for m in &demand.mappings { if m.was_bounced { *counts.entry(format!("{:?}", m.recorded)).or_insert(0) += 1; } }
    let engine = if side.contains("kernel = \"6.1.") { Engine::Linux6_1 } else if side.contains("dynamic = true") { Engine::Linux6_12Dynamic } else { Engine::Linux6_12 };
    println!("== {path} {engine} {:?} {counts:?} {:?}", demand.known, demand.unpaired);
    let env = |k: &str, d: u64| std::env::var(k).ok().map_or(d, |v| v.parse().unwrap());
    let growth = Growth { start_ns: env("GS", 100_000), run_ns: env("GR", 200_000) };
    let sw = SwiotlbConfig { engine, slots: ns.first().copied().unwrap_or(32768).max(128), areas: 2, page_bytes: 4096, start: 0, growth };
    let mut cfg = ReplayConfig::new(sw);
    cfg.keeps_places = true;
    let t = std::time::Instant::now();
    let r = replay(&demand, &cfg);
    let el = t.elapsed();
    let (ag, starts) = compare(&r.placed, &rec);
    println!("   {ag:?} {:.2}% starts {starts:x?} {el:?}", 100.0 * ag.equal as f64 / ag.compared.max(1) as f64);
    println!("   maps {} fail {} silent {} beyond {} hw {} peak {} grown {} trans {} probes {} copied {}", r.mappings, r.failed, r.failed_silent, r.served_beyond_recording, r.high_water_slots, r.pool_slots_peak, r.grown_pools, r.transient_pools, r.slots_probed, r.bytes_copied);
    cfg.keeps_places = false;
    if let Ok(w) = std::env::var("PEAK") {
        let (a, b) = w.split_once('-').unwrap(); let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
        let gr = env("GRAN", 50_000);
        cfg.samples_max = 200_000_000;
        let mut rows = BTreeMap::new();
        for (k, o) in [Order::Least, Order::Likely, Order::Most].into_iter().enumerate() { cfg.order = o; for s in replay(&demand, &cfg).samples { if s.at_ns >= a && s.at_ns <= b { rows.entry(s.at_ns / gr).or_insert([0; 3])[k] = s.used_slots.max(rows.get(&(s.at_ns / gr)).map_or(0, |r: &[u32; 3]| r[k])); } } }
        for (t, r) in rows { println!("     {} {r:?}", t * gr); }
        cfg.samples_max = 0;
    }
    cfg.order = Order::Least; let lo = replay(&demand, &cfg);
    cfg.order = Order::Most; let mo = replay(&demand, &cfg);
    for (i, p) in r.phases.iter().enumerate() {
        let k = hi.get(i).copied();
        println!("   {:14} kernel {:5} ours {:5} {} [{}, {}] maps {} failed {} silent {}", p.name, k.map_or(-1, |k| k as i64), p.high_water_slots, if k == Some(p.high_water_slots) { "=" } else { "DIFF" }, lo.phases[i].high_water_slots, mo.phases[i].high_water_slots, p.mappings, p.failed, p.failed_silent);
    }
    if let Ok(n) = std::env::var("MISS") {
        let mut left: i32 = n.parse().unwrap();
        for (i, (p, d)) in r.placed.iter().zip(&rec.dma).enumerate() {
            let Some(d) = d else { continue };
            let ok = match p { Placed::At(s) if s.is_transient => true, Placed::At(s) => d.wrapping_sub(s.offset_bytes) == starts[&s.pool], _ => false };
            if !ok { let at = demand.ops.iter().find(|o| o.kind == OpKind::Map(i as u32)).unwrap().likely_ns; println!("     miss #{i} at {at} dma {d:x} rel {:x} {p:x?} {:x?}", d.wrapping_sub(*starts.values().next().unwrap()), demand.mappings[i]); left -= 1; if left == 0 { break; } }
        }
    }
}
