# @summary What is in force is what the files say.
#
# Not a refresh: what is in force may differ from files that Puppet finds as it left them, when somebody applied others, or when a
# change could not be applied at the last run. What a person ordered (suspend, decommission, extend) is no difference.
#
# @api private
class picoseg::in_force {
  if $picoseg::service_manage and $picoseg::service_ensure == 'running' {
    exec { 'picoseg apply':
      command   => file('picoseg/apply.sh'),
      # A rehearsal on a host that does not have it yet would otherwise fail for a command that is not found.
      unless    => 'picoseg plan --exit-code || exit 1',
      path      => ['/usr/bin', '/bin'],
      provider  => 'shell',
      logoutput => 'on_failure',
    }
  }
}
