#!/bin/sh
# Records the DMA events of a Linux machine for `dmakit replay` and `dmakit size`.
# Printed by `dmakit record --print-script`; needs a POSIX shell, awk, sed and root.
#
#   sudo sh record.sh [COMMAND...]
#
# Without a command it records until Ctrl-C, or for DURATION seconds. A command
# names phases of its load by writing `PHASE_BEGIN name` and `PHASE_END name` to
# the file that the variable DMAKIT_MARKER names.
set -u
@SETTINGS@
ROOT=${DMAKIT_ROOT-$ROOT}
[ $# -gt 0 ] || eval "set -- $COMMAND"

die() {
	echo "record: $*" >&2
	exit 2
}

[ -n "$ROOT" ] || [ "$(id -u)" = 0 ] || die "recording needs root"
for T in "$ROOT/sys/kernel/tracing" "$ROOT/sys/kernel/debug/tracing" ""; do
	[ -e "$T/tracing_on" ] && break
done
[ -n "$T" ] || die "no tracefs: mount -t tracefs tracefs /sys/kernel/tracing"
for F in "$NAME.txt" "$NAME.txt.zst" "$NAME.txt.gz" "$NAME.toml"; do
	[ ! -e "$F" ] || die "$F exists"
done

# What this kernel has of the wished events.
HAVE=
LACK=
for E in $EVENTS; do
	if [ -e "$T/events/$(echo "$E" | tr : /)/enable" ]; then HAVE="$HAVE $E"; else LACK="$LACK $E"; fi
done
[ -n "$HAVE" ] || die "this kernel has none of the events $EVENTS"

MARK=$ROOT/sys/kernel/debug/swiotlb/io_tlb_used_hiwater
[ "$RESET" = 0 ] || [ -e "$MARK" ] || die "this kernel has no high-water mark, or no debugfs is mounted"

value() { cat "$1" 2>/dev/null || :; }

I=
PROBES=
READER=
CHILD=
SIGNAL=
SHARED=

# Puts tracefs back as it was, whatever happened. Runs once.
restore() {
	trap '' INT TERM HUP
	[ -z "$CHILD" ] || kill "$CHILD" 2>/dev/null
	if [ -n "$I" ]; then
		echo 0 >"$I/tracing_on"
		for E in $HAVE; do echo 0 >"$I/events/$(echo "$E" | tr : /)/enable"; done
		if [ -n "$READER" ]; then
			kill "$READER" 2>/dev/null
			wait "$READER" 2>/dev/null
		fi
		if [ -n "$SHARED" ]; then
			: >"$I/trace"
			echo "$WAS_SIZE" >"$I/buffer_size_kb"
			echo "$WAS_CLOCK" >"$I/trace_clock"
			echo "$WAS_ON" >"$I/tracing_on"
		else
			N=0
			until rmdir "$I" 2>/dev/null; do
				N=$((N + 1))
				[ $N -lt 4 ] || {
					echo "record: $I cannot be removed" >&2
					break
				}
				sleep 1
			done
		fi
		I=
	fi
	for P in $PROBES; do echo "-:dmakit/$P" >>"$T/kprobe_events"; done
	PROBES=
}
trap restore EXIT
trap 'exit 2' INT TERM HUP

# An instance of its own, or the only buffer if nobody uses it.
if [ -d "$T/instances" ]; then
	mkdir "$T/instances/dmakit" 2>/dev/null ||
		die "$T/instances/dmakit: cannot be made; rmdir it if a killed recording left it"
	I=$T/instances/dmakit
	N=0
	until [ -e "$I/tracing_on" ] || [ $N -ge 3 ]; do
		N=$((N + 1))
		sleep 1
	done
else
	TRACER=$(value "$T/current_tracer")
	[ "${TRACER:-nop}" = nop ] && [ -z "$(value "$T/set_event")" ] ||
		die "$T: in use by other tracing, and this kernel has no instances"
	WAS_ON=$(value "$T/tracing_on")
	WAS_CLOCK=$(value "$T/trace_clock" | sed -n 's/.*\[\(.*\)\].*/\1/p')
	[ -n "$WAS_CLOCK" ] || WAS_CLOCK=$(value "$T/trace_clock")
	WAS_SIZE=$(value "$T/buffer_size_kb" | sed 's/ .*//')
	SHARED=1
	I=$T
fi

RELEASE=$(value "$ROOT/proc/sys/kernel/osrelease")
if [ "$KPROBES" = 1 ]; then
	[ -e "$T/kprobe_events" ] || die "this kernel has no kprobe_events"
	case $(echo "$RELEASE" | awk -F'[.-]' '{ v = $1 * 1000 + $2; print (v >= 6012) ? "c" : (v >= 6010) ? "b" : "a" }') in
@PROBES@
	esac
	HAVE="$HAVE dmakit"
fi

set -e
echo 0 >"$I/tracing_on"
echo mono >"$I/trace_clock"
# Events first: a kernel like 6.1 has one flag for "somebody has used tracing", and
# would leave the machine's own buffer at its few KiB if sizing an instance set it.
for E in $HAVE; do echo 1 >"$I/events/$(echo "$E" | tr : /)/enable"; done
echo "$BUFFER_KIB" >"$I/buffer_size_kb"
: >"$I/trace"
[ "$RESET" = 0 ] || echo 0 >"$MARK"
set +e

# The kernel's counters as TOML, under [counters.$1].
counters() {
	for D in "$ROOT/sys/kernel/debug/swiotlb" "$ROOT/sys/kernel/debug/swiotlb"/*/; do
		[ -e "$D/io_tlb_nslabs" ] || continue
		P=$(basename "$D")
		[ "$P" = swiotlb ] && P=default
		printf '\n[counters.%s.swiotlb."%s"]\n' "$1" "$P"
		for K in nslabs used used_hiwater; do
			[ ! -e "$D/io_tlb_$K" ] || echo "$K = $(value "$D/io_tlb_$K")"
		done
	done
	for A in $(ls "$ROOT/sys/kernel/debug/cma" "$ROOT/sys/kernel/mm/cma" 2>/dev/null | grep -v ':$' | sort -u); do
		printf '\n[counters.%s.cma."%s"]\n' "$1" "$A"
		for K in count used maxchunk; do
			[ ! -e "$ROOT/sys/kernel/debug/cma/$A/$K" ] || echo "$K = $(value "$ROOT/sys/kernel/debug/cma/$A/$K")"
		done
		for K in alloc_pages_success alloc_pages_fail release_pages_success; do
			[ ! -e "$ROOT/sys/kernel/mm/cma/$A/$K" ] || echo "$K = $(value "$ROOT/sys/kernel/mm/cma/$A/$K")"
		done
	done
}

BEFORE=$(counters before)
HIGH_BEFORE=$(value "$MARK")
cat "$I/trace_pipe" >"$NAME.txt" &
READER=$!
echo 1 >"$I/tracing_on"
echo "PHASE_BEGIN recording" >"$I/trace_marker"
export DMAKIT_MARKER="$I/trace_marker"

# The command, the time or a signal ends it. Signals are passed on.
trap 'SIGNAL=INT; [ -z "$CHILD" ] || kill -INT "$CHILD" 2>/dev/null' INT
trap 'SIGNAL=TERM; [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null' TERM HUP
if [ $# -gt 0 ]; then "$@" & else sleep "${DURATION:-2147483647}" & fi
CHILD=$!
TIMER=
if [ $# -gt 0 ] && [ -n "$DURATION" ]; then
	(sleep "$DURATION" && kill "$CHILD") 2>/dev/null &
	TIMER=$!
fi
wait "$CHILD"
STATUS=$?
if [ -n "$SIGNAL" ]; then
	[ $# -gt 0 ] || kill "$CHILD" 2>/dev/null
	wait "$CHILD" 2>/dev/null
fi
CHILD=
[ -z "$TIMER" ] || kill "$TIMER" 2>/dev/null

echo "PHASE_END recording" >"$I/trace_marker"
trap '' INT TERM HUP
AFTER=$(counters after)
D=$ROOT/sys/kernel/debug/swiotlb
HIGH=$(value "$MARK")
USED=$(value "$D/io_tlb_used")
SLABS=$(value "$D/io_tlb_nslabs")
# The reader has everything when it has the last mark; it does not see the end by itself.
N=0
until tail -c 65536 "$NAME.txt" | grep -q 'PHASE_END recording'; do
	N=$((N + 1))
	[ $N -lt 10 ] || break
	sleep 1
done
echo 0 >"$I/tracing_on"
[ $N -eq 0 ] || sleep 1
LOST=$(cat "$I"/per_cpu/cpu*/stats 2>/dev/null |
	awk -F: '/^(overrun|commit overrun|dropped events):/ { n += $2 } END { printf "%.0f", n }')
PROFILE=
for P in $PROBES; do
	PROFILE="$PROFILE$(awk -v p="$P" '$1 == p { printf "  \"%s %s %s\",\n", $1, $2, $3 }' "$T/kprobe_profile" 2>/dev/null)
"
done
restore
trap - EXIT

# A text as TOML writes it.
quote() {
	printf '"'
	printf '%s' "$1" | tr -d '\001-\010\012-\037\177' | sed 's/\\/\\\\/g; s/"/\\"/g'
	printf '"'
}
line() { [ -z "$2" ] || printf '%s = %s\n' "$1" "$3"; }

# Events by name, and phases, from the trace itself.
scan() {
	awk -v what="$1" '
	BEGIN { n = total = lost = 0 }
	function stop(t) { if (open != "") { begun[n] = open; first[n] = from; last[n] = t; n++; open = "" } }
	/^CPU:[0-9]+ \[LOST [0-9]+ EVENTS\]/ { sub(/.*\[LOST /, ""); lost += $1; next }
	match($0, /[ \t][0-9]+\.[0-9]+: [A-Za-z0-9_]+:/) {
		time = name = substr($0, RSTART + 1, RLENGTH - 1)
		text = substr($0, RSTART + RLENGTH + 1)
		sub(/: .*/, "", time); sub(/^[^ ]* /, "", name); sub(/:$/, "", name)
		count[name]++; total++
		if (name == "tracing_mark_write" && text ~ /^PHASE_BEGIN /) { stop(time); open = substr(text, 13); from = time }
		if (name == "tracing_mark_write" && text ~ /^PHASE_END /) stop(time)
	}
	END {
		if (what == "total") printf "%.0f", total
		if (what == "lost") printf "%.0f", lost
		if (what == "events") for (e in count) printf "%s = %d\n", e, count[e] | "sort"
		if (what == "count") print n + 0
		if (what == "phases") {
			for (i = 0; i < n; i++) {
				gsub(/\\/, "\\\\", begun[i]); gsub(/"/, "\\\"", begun[i])
				printf "\n[[phase]]\nname = \"%s\"\nbegin = %s\nend = %s\n", begun[i], first[i], last[i]
			}
			if (open != "") printf "\n[[phase]]\nname = \"%s\"\nbegin = %s\n", open, from
		}
	}' "$NAME.txt"
}

SEEN=$(scan lost)
[ "${LOST:-0}" -ge "$SEEN" ] || LOST=$SEEN
{
	echo "# What the kernel itself said during the capture of the same name."
	echo "[capture]"
	echo "name = $(quote "$(basename "$NAME")")"
	echo 'description = "recorded by dmakit record"'
	line kernel "$RELEASE" "$(quote "$RELEASE")"
	if [ -e "$D/io_tlb_nslabs" ]; then
		if [ -e "$D/io_tlb_transient_nslabs" ]; then echo "swiotlb_dynamic = true"; else echo "swiotlb_dynamic = false"; fi
	fi
	ARCH=$(value "$ROOT/proc/sys/kernel/arch")
	[ -n "$ARCH" ] || [ -n "$ROOT" ] || ARCH=$(uname -m)
	line arch "$ARCH" "$(quote "$ARCH")"
	LINE=$(value "$ROOT/proc/cmdline")
	line cmdline "$LINE" "$(quote "$LINE")"
	CPUS=$(value "$ROOT/sys/devices/system/cpu/online" | tr , '\n' | awk -F- 'NF { n += ($NF - $1) + 1 } END { print n }')
	line cpus "$CPUS" "$CPUS"
	MEMORY=$(awk '/^MemTotal:/ { print $2 }' "$ROOT/proc/meminfo" 2>/dev/null)
	line mem_total_kib "$MEMORY" "$MEMORY"
	[ $# -eq 0 ] || echo "workload = $(quote "$*")"
	echo 'trace_clock = "mono"'
	echo "events_total = $(scan total)"
	echo "events_lost = ${LOST:-0}"
	printf '\n[events]\n'
	scan events
	scan phases
	# Counters are read at the end of the whole: they belong to a phase only if it is the whole.
	if [ "$(scan count)" = 1 ]; then
		line swiotlb_used "$USED" "$USED"
		if [ -n "$HIGH" ] && { [ "$RESET" = 1 ] || [ "${HIGH_BEFORE:-$HIGH}" -lt "$HIGH" ]; }; then
			echo "swiotlb_hiwater = $HIGH"
		fi
		line swiotlb_nslabs "$SLABS" "$SLABS"
	fi
	printf '\n[dmesg]\nlines = [\n'
	if [ -z "$ROOT" ]; then dmesg; else
		awk -F';' '/^[0-9]+,[0-9]+,[0-9]+/ { split($1, f, ","); t = $0; sub(/^[^;]*;/, "", t)
			printf "[%5d.%06d] %s\n", int(f[3] / 1000000), f[3] % 1000000, t }' "$ROOT/dev/kmsg" 2>/dev/null
	fi | awk '
	/Command line|software IO TLB|swiotlb|SWIOTLB|cma|CMA|DMA|dma|DMAR|iommu|IOMMU|Memory:/ || more && /^\[ *[0-9.]+\] [+=0-9]/ {
		keep[n++] = $0
		# A list of free runs that does not fit one record goes on in the next.
		more = !/=>/ && (more || /available pages: /)
		next
	}
	{ more = 0 }
	END { for (i = 0; i < n; i++) if (i < 100 || i >= n - 100) print keep[i] }' |
		tr -d '\001-\010\013-\037\177' | sed 's/\\/\\\\/g; s/"/\\"/g; s/^/  "/; s/$/",/'
	printf ']\n\n[devices]\npci = [\n'
	for P in "$ROOT"/sys/bus/pci/devices/*; do
		[ -e "$P/vendor" ] || continue
		DRIVER=$(readlink "$P/driver" 2>/dev/null) && DRIVER=${DRIVER##*/}
		GROUP=$(readlink "$P/iommu_group" 2>/dev/null) && GROUP=${GROUP##*/}
		printf '  "%s %s:%s class=%s numa=%s drv=%s dma_mask=%s iommu_group=%s",\n' "${P##*/}" \
			"$(value "$P/vendor")" "$(value "$P/device")" "$(value "$P/class")" "$(value "$P/numa_node")" \
			"$DRIVER" "$(value "$P/dma_mask_bits")" "$GROUP"
	done
	echo ']'
	if [ -n "$PROFILE" ]; then
		printf '\n[kprobes]\nprofile = [\n%s]\n' "$PROFILE"
	fi
	echo "$BEFORE"
	echo "$AFTER"
} >"$NAME.toml"

FILE=$NAME.txt
if [ "$PACK" = 1 ]; then
	if zstd -q --rm "$NAME.txt" 2>/dev/null; then
		FILE=$NAME.txt.zst
	elif gzip "$NAME.txt" 2>/dev/null; then
		FILE=$NAME.txt.gz
	fi
fi
echo "record: $FILE and $NAME.toml written, ${LOST:-0} events lost" >&2
[ -z "$LACK" ] || echo "record: this kernel has no$LACK events" >&2
[ "$STATUS" = 0 ] || [ -n "$SIGNAL" ] || echo "record: the command ended with status $STATUS" >&2
exit 0
