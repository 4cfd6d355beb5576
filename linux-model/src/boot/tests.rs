use super::*;
use crate::Engine;

fn machine() -> Machine {
    Machine {
        architecture: Architecture::X86_64,
        ram_bytes: 2 << 30,
        cpus: 2,
        page_bytes: 4096,
        has_unreachable_memory: false,
        is_confidential: false,
        largest_free_slots: None,
    }
}

fn params(text: &str) -> SwiotlbParams {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn size(machine: &Machine, text: &str) -> (u32, u32) {
    let setup = setup(Engine::Linux6_12, machine, params(text)).unwrap();
    (setup.slots, setup.areas)
}

#[test]
fn every_legal_form_is_read_and_printed_alike() {
    for text in [
        "512",
        "512,4",
        "512,4,force",
        "512,force",
        ",4",
        ",4,noforce",
        "force",
        "noforce",
    ] {
        assert_eq!(params(text).to_string(), text);
    }
    assert_eq!(params("0x200,04").slots, Some(512));
    assert_eq!(params("0x200,04").areas, Some(4));
    assert_eq!(params("010").slots, Some(8));
    assert_eq!(params("512,").to_string(), "512");
}

#[test]
fn a_size_suffix_is_refused_with_what_linux_would_do() {
    let error = "64M".parse::<SwiotlbParams>().unwrap_err();
    let meant_slots = Some(32768);
    assert_eq!(
        error,
        SwiotlbParamsError::Suffix {
            text: "64M".into(),
            slots: 64,
            meant_slots
        }
    );
    assert!("512,4K,force".parse::<SwiotlbParams>().is_err());
    let error = "64MB,force"
        .parse::<SwiotlbParams>()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("64 slots") && error.contains("swiotlb=32768"),
        "{error}"
    );
    assert!(matches!(
        "9000000000G".parse::<SwiotlbParams>(),
        Err(SwiotlbParamsError::Suffix {
            meant_slots: None,
            ..
        })
    ));
}

#[test]
fn what_linux_ignores_in_silence_is_an_error() {
    for text in [
        "on",
        "512,froce",
        "512force",
        "512,4,5",
        "-1",
        "512 ",
        "4,force ",
        "0x",
        "08",
    ] {
        let error = text.parse::<SwiotlbParams>().unwrap_err();
        assert!(
            matches!(error, SwiotlbParamsError::Word { .. }),
            "{text}: {error:?}"
        );
    }
    for text in ["force,512", "noforce,force"] {
        let error = text.parse::<SwiotlbParams>().unwrap_err();
        assert!(
            matches!(error, SwiotlbParamsError::AfterForce { .. }),
            "{text}: {error:?}"
        );
    }
    for text in ["2097153", "99999999999999999999999", "512,999999"] {
        let error = text.parse::<SwiotlbParams>().unwrap_err();
        assert!(
            matches!(error, SwiotlbParamsError::OutOfRange { .. }),
            "{text}: {error:?}"
        );
    }
    assert_eq!("".parse::<SwiotlbParams>(), Err(SwiotlbParamsError::Empty));
}

#[test]
fn slots_are_rounded_to_segments_areas_and_powers_of_two() {
    let machine = machine();
    assert_eq!(size(&machine, "force"), (32768, 2));
    assert_eq!(size(&machine, "512,force"), (512, 2));
    assert_eq!(size(&machine, "513,force"), (1024, 2));
    assert_eq!(size(&machine, "1,1,force"), (128, 1));
    assert_eq!(size(&machine, "1,force"), (256, 2));
    assert_eq!(size(&machine, "512,3,force"), (512, 4));
    assert_eq!(size(&machine, "512,64,force"), (8192, 64));
    assert_eq!(size(&machine, "0,0,force"), (256, 2));
}

#[test]
fn a_machine_in_reach_of_every_device_has_no_pool() {
    let all = params("512");
    assert_eq!(
        setup(Engine::Linux6_12, &machine(), all),
        Err(Unbounced::NotNeeded)
    );
    let large = Machine {
        has_unreachable_memory: true,
        ..machine()
    };
    assert_eq!(size(&large, "512"), (512, 2));
    assert_eq!(
        setup(Engine::Linux6_12, &large, params("noforce")),
        Err(Unbounced::NoForce)
    );
}

#[test]
fn arm64_in_reach_gets_a_mebibyte_per_gibibyte_even_when_forced() {
    let arm = Machine {
        architecture: Architecture::Arm64,
        ..machine()
    };
    assert_eq!(size(&arm, "force"), (1024, 2));
    let none = SwiotlbParams::default();
    assert_eq!(setup(Engine::Linux6_12, &arm, none).unwrap().slots, 1024);
    assert_eq!(
        setup(Engine::Linux6_1, &arm, none),
        Err(Unbounced::NotNeeded)
    );
    assert_eq!(
        setup(Engine::Linux6_1, &arm, params("force"))
            .unwrap()
            .slots,
        32768
    );
    assert_eq!(size(&arm, "4096,force"), (4096, 2));
}

#[test]
fn a_confidential_guest_gets_six_percent_within_bounds() {
    let guest = |gib: u64| Machine {
        ram_bytes: gib << 30,
        is_confidential: true,
        ..machine()
    };
    assert_eq!(size(&guest(1), ","), (32768, 2));
    // 491.52 MiB, rounded up to a power of two.
    assert_eq!(size(&guest(8), ","), (262_144, 2));
    assert_eq!(size(&guest(256), ","), (524_288, 2));
    assert_eq!(size(&guest(256), "4096"), (4096, 2));
    let named = setup(Engine::Linux6_12, &guest(256), params("32768")).unwrap();
    assert!(named.is_forced);
    assert!(
        named.reasons.contains(&Reason::DefaultByName(524_288)),
        "{:?}",
        named.reasons
    );
}

#[test]
fn short_memory_halves_the_pool_down_to_a_mebibyte() {
    let short = |slots| Machine {
        largest_free_slots: Some(slots),
        ..machine()
    };
    assert_eq!(size(&short(10_000), "force"), (8192, 2));
    assert_eq!(size(&short(512), "force"), (512, 2));
    assert_eq!(size(&short(600), ",64,force"), (512, 4));
    let none = setup(Engine::Linux6_12, &short(511), params("force"));
    assert_eq!(none, Err(Unbounced::NoMemory));
}

#[test]
fn an_overlay_keeps_force_and_replaces_sizes() {
    let base = CommandLine::parse("console=ttyS0 swiotlb=512,force quiet cma=64M");
    let over = CommandLine::parse_dma("swiotlb=1024,4 cma=128M iommu.strict=0").unwrap();
    let line = base.overlaid(&over).unwrap();
    assert_eq!(
        line.to_string(),
        "console=ttyS0 swiotlb=1024,4,force quiet cma=128M iommu.strict=0"
    );
    let none = base
        .overlaid(&CommandLine::parse_dma("swiotlb=2048,noforce").unwrap())
        .unwrap();
    assert_eq!(none.value("swiotlb"), Some("2048,noforce"));
    let forced = CommandLine::parse("swiotlb=512").overlaid(&CommandLine::parse("swiotlb=force"));
    assert_eq!(forced.unwrap().to_string(), "swiotlb=512,force");
    assert_eq!(
        line.dma_only().to_string(),
        "swiotlb=1024,4,force cma=128M iommu.strict=0"
    );
}

#[test]
fn the_last_of_a_name_wins_and_an_overlay_leaves_one() {
    let base = CommandLine::parse("swiotlb=512 quiet swiotlb=1024,force");
    assert_eq!(base.value("swiotlb"), Some("1024,force"));
    let line = base.overlaid(&CommandLine::parse("swiotlb=2048")).unwrap();
    assert_eq!(line.to_string(), "swiotlb=2048,force quiet");
}

#[test]
fn quotes_and_init_arguments_are_taken_as_the_kernel_takes_them() {
    let line = CommandLine::parse("a=\"b c\" \"d=e f\" g -- swiotlb=512");
    assert_eq!(line.value("a"), Some("b c"));
    assert_eq!(line.value("d"), Some("e f"));
    assert_eq!(line.value("swiotlb"), None);
    assert_eq!(line.to_string(), "a=\"b c\" d=\"e f\" g");
}

#[test]
fn an_unknown_parameter_names_the_nearest_known_one() {
    for (asked, nearest) in [
        ("swoitlb=512", "swiotlb"),
        ("cma_pernum=16M", "cma_pernuma"),
        ("pernuma_cma=16M", "cma_pernuma"),
        ("iommu.stirct=0", "iommu.strict"),
        ("intel-iommu-=on", "intel_iommu"),
        ("coherentpool=1M", "coherent_pool"),
    ] {
        match CommandLine::parse_dma(asked) {
            Err(CommandLineError::Unknown {
                nearest: Some(found),
                ..
            }) => assert_eq!(found, nearest),
            other => panic!("{asked}: {other:?}"),
        }
    }
    let far = CommandLine::parse_dma("quiet").unwrap_err();
    assert_eq!(
        far,
        CommandLineError::Unknown {
            name: "quiet".into(),
            nearest: None
        }
    );
    assert!(CommandLine::parse_dma("amd-iommu=off swiotlb=512").is_ok());
    let bare = CommandLine::parse_dma("swiotlb").unwrap_err();
    assert_eq!(bare, CommandLineError::NoValue { name: "swiotlb" });
}
