# SPDX-License-Identifier: GPL-2.0-only
#: about = "The lab itself: the host boots, KVM loads, a guest answers"
#: parts = ["qemu"]

check_same "runs on the expected machine" GenuineIntel \
	"$(sed -n 's/^vendor_id.*: //p' /proc/cpuinfo | head -n 1)"
load_kvm
check "a guest starts" guest_start
check_same "a guest's command prints" "hello world" "$(guest_run echo hello world)"
guest_run exit 7
check_same "a guest's exit status comes out" 7 $?
guest_run printf '[%s]' "a  b" '' "it's" '"$HOME" \ *' "'" ';' '
' >/tmp/arguments
check_same "arguments arrive as they are" "[a  b][][it's][\"\$HOME\" \\ *]['][;][
]" "$(cat /tmp/arguments)"
check_same "a script is executed by the shell" "2 /tmp" "$(guest_sh 'set -- a b; echo "$# $PWD"')"
check "a guest stops" guest_stop
check "kvm_intel unloads" unload_kvm
