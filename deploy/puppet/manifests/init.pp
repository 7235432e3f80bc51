# @summary Installs picoseg, writes its settings, and keeps what is in force equal to its files.
#
# Third-party services, segments and lists are declared as resources (`picoseg::service`, `picoseg::segment`,
# `picoseg::list`) or by the hashes of the same names in Hiera. What Puppet does not know is removed, and with its file a
# service is decommissioned: its connections are cut, and its provider stays refused and watched.
#
# Changes are put in force by `picoseg apply`, all of them or none; the daemon is restarted only for a setting that it cannot
# change while it runs.
#
# @example Settings, and everything else from Hiera
#   include picoseg
#
# @example A host that only watches
#   class { 'picoseg':
#     enforcement => { 'mode' => 'observe' },
#     metrics     => { 'listen' => '127.0.0.1:9477' },
#   }
#
# @param package_manage
#   Whether to install the package at all.
# @param package_name
#   The package.
# @param package_ensure
#   A version, or a word that the `package` resource knows.
# @param package_source
#   A file or URL, where `package_provider` wants one (`dpkg`, `rpm`).
# @param package_provider
#   Another provider than the system's own.
# @param service_manage
#   Whether to manage the units. Without them nothing is put in force.
# @param service_ensure
#   Whether `picosegd.service` runs. A stopped daemon leaves in force what is in force.
# @param service_enable
#   Whether the units start at boot.
# @param purge
#   Whether schedules and segments that Puppet does not know are removed, which tears them down. Directories of approvals
#   (`NAME.approvals`) stay, and so do lists.
# @param paths
#   `[paths]` of picoseg.toml. Other places than the standard ones need a drop-in for the unit, which may write to these only.
# @param enforcement
#   `[enforcement]` of picoseg.toml.
# @param failsafe
#   `[failsafe]` of picoseg.toml.
# @param attempts
#   `[attempts]` of picoseg.toml.
# @param approval
#   `[approval]` of picoseg.toml.
# @param metrics
#   `[metrics]` of picoseg.toml.
# @param notify_command
#   `command` of `[notify]` of picoseg.toml: a program and its arguments. (`notify` is a metaparameter of every resource.)
# @param services
#   Services by name: parameters of `picoseg::service`.
# @param segments
#   Segments by name: parameters of `picoseg::segment`.
# @param lists
#   Lists by name: parameters of `picoseg::list`.
class picoseg (
  Boolean $package_manage                               = true,
  String[1] $package_name                               = 'picoseg',
  String[1] $package_ensure                             = 'installed',
  Optional[String[1]] $package_source                   = undef,
  Optional[String[1]] $package_provider                 = undef,
  Boolean $service_manage                               = true,
  Enum['running', 'stopped'] $service_ensure            = 'running',
  Boolean $service_enable                               = true,
  Boolean $purge                                        = true,
  Picoseg::Paths $paths                                 = {},
  Picoseg::Enforcement $enforcement                     = {},
  Picoseg::Failsafe $failsafe                           = {},
  Picoseg::Attempts $attempts                           = {},
  Picoseg::Approval $approval                           = {},
  Picoseg::Metrics $metrics                             = {},
  Array[String[1]] $notify_command                      = [],
  Hash[Picoseg::Name, Hash[String[1], Any]] $services   = {},
  Hash[Picoseg::Name, Hash[String[1], Any]] $segments   = {},
  Hash[Picoseg::Listname, Hash[String[1], Any]] $lists  = {},
) {
  $services_directory = $paths.get('services', '/etc/picoseg/services.d')
  $segments_directory = $paths.get('segments', '/etc/picoseg/segments.d')
  $lists_directory    = $paths.get('lists', '/etc/picoseg/lists')

  contain picoseg::install
  contain picoseg::config
  contain picoseg::lists
  contain picoseg::daemon
  contain picoseg::in_force

  Class['picoseg::install']
  -> Class['picoseg::config']
  -> Class['picoseg::lists']

  Class['picoseg::config']
  -> Class['picoseg::daemon']
  -> Class['picoseg::in_force']

  $lists.each |$name, $parameters| {
    picoseg::list { $name: * => $parameters }
  }
  $services.each |$name, $parameters| {
    picoseg::service { $name: * => $parameters }
  }
  $segments.each |$name, $parameters| {
    picoseg::segment { $name: * => $parameters }
  }
}
