# @summary The settings, and the directories of schedules, segments and lists.
#
# @api private
class picoseg::config {
  file {
    default:
      owner => 'root',
      group => 'root',
      ;
    '/etc/picoseg':
      ensure => directory,
      mode   => '0755',
      ;
    '/etc/picoseg/picoseg.toml':
      ensure       => file,
      mode         => '0644',
      content      => epp('picoseg/picoseg.toml.epp'),
      validate_cmd => '/usr/bin/picoseg check --as settings %',
      ;
    $picoseg::lists_directory:
      ensure => directory,
      mode   => '0755',
      ;
    [$picoseg::services_directory, $picoseg::segments_directory]:
      ensure       => directory,
      mode         => '0755',
      recurse      => $picoseg::purge,
      recurselimit => 1,
      purge        => $picoseg::purge,
      # Approvals are signatures over a schedule's bytes, made by people; samples come with the package.
      ignore       => ['*.approvals', '*.sample'],
      ;
  }
}
