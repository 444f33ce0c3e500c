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

ktap_end() {
	echo "1..$number"
	exit $failed
}
