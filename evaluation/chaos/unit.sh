# What every unit of the campaigns does: it works for a while, writes its output in two parts, and fails as its
# plan says until what it waits for has come.
#
#     bash unit.sh JUDGE KIND NUMBER OUTPUT [AMOUNT]
#
# JUDGE is a directory outside of the run, where only the judge looks: the plan of each unit, its starts, and the
# ledger, to which each unit writes what happened to it. AMOUNT is the memory or the batch it was given.
set -u
judge=$1 unit=$2/$3 output=$4 amount=${5:-0}
own=$judge/units/$2.$3
source "$own.plan"

say() { printf '%s %s %s %s\n' "${EPOCHREALTIME/[.,]/}" "$1" "$unit" "$$" >> "$judge/ledger"; }

fail() {
    say fault
    [ ! -e "$own.text" ] || cat "$own.text" >&2
    exit "${1:-$code}"
}

# Whether the fault is still there, by what cures it.
faulty() {
    local now=${EPOCHREALTIME/[.,]/} began
    case $cure in
        starts) ((before < starts)) ;;
        time) # an outage, of this unit alone or of something that several share
            [ -e "$outage" ] || echo "$now" > "$outage"
            read -r began < "$outage" || began=$now
            ((now < began + span)) ;;
        amount) ((amount < need)) ;;
        shrink) ((amount > need)) ;;
        repair) [ ! -e "$own.repaired" ] ;;
        *) false ;;
    esac
}

numbers() { # FROM TO
    local i
    for ((i = $1; i <= $2; i++)); do printf ', %d' $((i * i + salt)); done
}

write() {
    printf '{"unit": "%s", "numbers": [%d' "$unit" "$salt" > "$output" || fail 1
    numbers 1 20 >> "$output" || fail 1
    sleep "$work"
    { numbers 21 40; printf '], "complete": true}%*s\n' "$pad" ''; } >> "$output" || fail 1
}

mapfile -t earlier 2> /dev/null < "$own.starts" || earlier=()
before=${#earlier[@]}
exec 9> "$own.lock"
flock -n 9 || say overlap
if [ "$2" = leased ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    exec 8> "$judge/device.$CUDA_VISIBLE_DEVICES"
    flock -n 8 || say shared
fi
echo "$$" >> "$own.starts"
say start

case $fault in
    text) # the log of some tool, and its exit code
        sleep "$work"
        if faulty; then fail; fi ;;
    memory) # a real limit and a real tool that meets it
        sleep "$work"
        if ! (set -o pipefail; ulimit -v $((amount * 1024)); eval "$tool"); then fail 1; fi ;;
    hang)
        if faulty; then say fault; exec sleep 600 9>&-; fi ;;
    livelock)
        if faulty; then
            say fault
            for ((i = 0; i < 3000; i++)); do echo "poll $i: queue is not empty, 17 of 40 done"; sleep 0.2; done
        fi ;;
    outside) # works for long, so that something can happen to it
        if faulty; then say ready; sleep "$long" 9>&-; fi ;;
    segments) # resumes where it was ended
        done=0
        [ ! -e "$own.checkpoint" ] || read -r done < "$own.checkpoint"
        for ((i = done + 1; i <= steps; i++)); do
            sleep 0.25
            echo "$i" > "$own.checkpoint"
            echo "$i $steps" > "${RIPRESA_PROGRESS:-/dev/null}"
        done ;;
    truncated) if faulty; then say fault; printf '{"unit": "%s", "numbers": [%d' "$unit" "$salt" > "$output"; exit 0; fi ;;
    empty) if faulty; then say fault; : > "$output"; exit 0; fi ;;
    missing) if faulty; then say fault; exit 0; fi ;;
    foreign) if faulty; then say fault; echo '<html><body>503 try later</body></html>' > "$output"; exit 0; fi ;;
    partial) if faulty; then say fault; printf '{"unit": "%s", "numbers": [1], "complete": false}\n' "$unit" > "$output"; exit 0; fi ;;
    slow) # healthy
        for ((i = 1; i <= steps; i++)); do echo "$i $steps" > "${RIPRESA_PROGRESS:-/dev/null}"; sleep 0.5; done ;;
    silent) sleep "$long" ;; # healthy
    computing) # healthy: no word for longer than the limit, but it computes
        for ((i = 1; i <= steps; i++)); do for ((j = 0; j < 30000; j++)); do :; done; sleep 0.3; done ;;
    warned) cat "$own.text" >&2; echo "all retries done, going on" ;; # healthy
esac
write
say done
