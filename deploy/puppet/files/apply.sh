# Puts the files in force. Only a setting that cannot change while the daemon runs is a reason to restart it, never a bad
# file; the table stays in force meanwhile.
said=$(picoseg apply 2>&1) && exit 0
status=$?
case $said in
*'cannot change while the daemon runs'*) exec systemctl restart picosegd.service ;;
esac
printf '%s\n' "$said"
exit "$status"
