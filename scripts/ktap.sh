# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Sourced by checks that print KTAP; they end with `ktap_end`.

number=0
failed=0
echo 'KTAP version 1'

# check NAME CMD...: one test; the end of what it prints is shown if it fails.
check() {
	ktap_name=$1
	shift
	number=$((number + 1))
	ktap_output=$(mktemp)
	if "$@" >"$ktap_output" 2>&1; then
		echo "ok $number $ktap_name"
	else
		tail -n 40 "$ktap_output" | sed 's/^/# /'
		echo "not ok $number $ktap_name"
		failed=1
	fi
	rm -f "$ktap_output"
}

# check_all NAME FILE CMD...: one test of the tests that CMD leaves in FILE, as KTAP; the end
# of what it prints is shown if one fails, or it does.
check_all() {
	ktap_name=$1
	ktap_file=$2
	shift 2
	rm -f "$ktap_file"
	number=$((number + 1))
	ktap_output=$(mktemp)
	ktap_verdict=ok
	"$@" >"$ktap_output" 2>&1 || ktap_verdict="not ok"
	[ -s "$ktap_file" ] || {
		ktap_verdict="not ok"
		echo "$ktap_file is missing or empty" >>"$ktap_output"
		ktap_file=/dev/null
	}
	! grep -q '^ *not ok ' "$ktap_file" || ktap_verdict="not ok"
	grep -q '^1\.\.[1-9]' "$ktap_file" || ktap_verdict="not ok"
	echo "    # Subtest: $ktap_name"
	sed 's/^/    /' "$ktap_file" || :
	if [ "$ktap_verdict" != ok ]; then
		tail -n 40 "$ktap_output" | sed 's/^/# /'
		failed=1
	fi
	rm -f "$ktap_output"
	echo "$ktap_verdict $number $ktap_name"
}

ktap_end() {
	echo "1..$number"
	exit $failed
}
