use dmakit_linux_model::*;
use std::collections::BTreeMap;
fn main() {
    for path in std::env::args().skip(1) {
        one(&path);
    }
}
fn one(path: &str) {
    let side = std::fs::read_to_string(
        path.replace("/tmp/m/", "/work/shared/traces/")
            .replace(".txt", ".toml"),
    )
    .unwrap();
    let t0 = std::time::Instant::now();
    let mut ing = TraceIngest::new();
    for e in dmakit_trace::Trace::open(std::path::Path::new(path), dmakit_trace::Options::default())
        .unwrap()
    {
        ing.push(&e.unwrap());
    }
    let (mut demand, rec) = ing.finish();
    let read = t0.elapsed();
    let ev = learn_min_align_masks(&mut demand, &rec);
    println!(
        "   learned {:?} from {ev:?}",
        demand
            .devices
            .iter()
            .map(|d| d.limits.min_align_mask)
            .collect::<Vec<_>>()
    );
    let nvme = side.contains("drv=nvme");
    for d in &mut demand.devices {
        if nvme {
            d.limits.min_align_mask = 4095;
        }
    }
    let grab = |k: &str| -> Vec<u32> {
        side.lines()
            .filter_map(|l| l.strip_prefix(&format!("{k} = ")))
            .map(|v| v.parse().unwrap())
            .collect()
    };
    let hi = grab("swiotlb_hiwater");
    let ns = grab("swiotlb_nslabs");
    let mut counts = BTreeMap::new();
    for m in &demand.mappings {
        if m.was_bounced {
            *counts.entry(format!("{:?}", m.recorded)).or_insert(0) += 1;
        }
    }
    let engine = if side.contains("kernel = \"6.1.") {
        Engine::Linux6_1
    } else if side.contains("dynamic = true") {
        Engine::Linux6_12Dynamic
    } else {
        Engine::Linux6_12
    };
    println!(
        "== {path} {engine} {:?} {counts:?} {:?}",
        demand.known, demand.unpaired
    );
    println!("   read {read:?}");
    let env = |k: &str, d: u64| std::env::var(k).ok().map_or(d, |v| v.parse().unwrap());
    let sw = SwiotlbConfig {
        engine,
        slots: ns.first().copied().unwrap_or(32768).max(128),
        areas: 2,
        page_bytes: 4096,
        start: 0,
        growth_run_ns: env("GR", 200_000),
    };
    let mut cfg = ReplayConfig::new(sw);
    cfg.keeps_places = true;
    let t = std::time::Instant::now();
    let r = replay(&demand, &cfg);
    let el = t.elapsed();
    if let Some(b) = learn_beginning(&demand, &rec, &cfg.swiotlb, None) {
        println!("   start {:x} cursors {:?}", b.start, b.cursors);
        let mut c2 = cfg.clone();
        c2.cursors = b.cursors.clone();
        let free = replay(&demand, &c2);
        let eq = free.placed.iter().zip(&rec.dma).filter(|(p, d)| matches!((p, d), (Placed::At(s), Some(d)) if s.pool == PoolId(0) && d.wrapping_sub(b.start) == s.offset_bytes)).count();
        let t = std::time::Instant::now();
        let ag = agree(&demand, &rec, &cfg, &b);
        println!(
            "   free-running {eq}; AGREE {:.2}% of {} knowable; compared {} told {} unknowable {} explained {} transient {} misses {} ; replay {el:?} referee {:?}",
            ag.percent().unwrap_or(0.0),
            ag.knowable,
            ag.compared,
            ag.told,
            ag.unknowable,
            ag.explained,
            ag.transient,
            ag.misses.len(),
            t.elapsed()
        );
        if let Ok(n) = std::env::var("MISS") {
            for m in ag.misses.iter().take(n.parse().unwrap()) {
                println!(
                    "     miss {m:x?} at {:?} {:x?}",
                    demand.ops.iter().find(|o| o.kind == OpKind::Map(m.mapping)),
                    demand.mappings[m.mapping as usize]
                );
            }
        }
    }
    println!(
        "   maps {} fail {} silent {} beyond {} hw {} peak {} grown {} trans {} probes {} copied {}",
        r.mappings,
        r.failed,
        r.failed_silent,
        r.served_beyond_recording,
        r.high_water_slots,
        r.pool_slots_peak,
        r.grown_pools,
        r.transient_pools,
        r.slots_probed,
        r.bytes_copied
    );
    cfg.keeps_places = false;
    if let Ok(w) = std::env::var("PEAK") {
        let (a, b) = w.split_once('-').unwrap();
        let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
        let gr = env("GRAN", 50_000);
        cfg.samples_max = 200_000_000;
        let mut rows = BTreeMap::new();
        for (k, o) in [Order::Least, Order::Likely, Order::Most]
            .into_iter()
            .enumerate()
        {
            cfg.order = o;
            for s in replay(&demand, &cfg).samples {
                if s.at_ns >= a && s.at_ns <= b {
                    rows.entry(s.at_ns / gr).or_insert([0; 3])[k] = s
                        .used_slots
                        .max(rows.get(&(s.at_ns / gr)).map_or(0, |r: &[u32; 3]| r[k]));
                }
            }
        }
        for (t, r) in rows {
            println!("     {} {r:?}", t * gr);
        }
        cfg.samples_max = 0;
    }
    cfg.order = Order::Least;
    let lo = replay(&demand, &cfg);
    cfg.order = Order::Most;
    let mo = replay(&demand, &cfg);
    for (i, p) in r.phases.iter().enumerate() {
        let k = hi.get(i).copied();
        println!(
            "   {:14} kernel {:5} ours {:5} {} [{}, {}] maps {} failed {} silent {}",
            p.name,
            k.map_or(-1, |k| k as i64),
            p.high_water_slots,
            if k == Some(p.high_water_slots) {
                "="
            } else {
                "DIFF"
            },
            lo.phases[i].high_water_slots,
            mo.phases[i].high_water_slots,
            p.mappings,
            p.failed,
            p.failed_silent
        );
    }
}
