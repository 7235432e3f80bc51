# frozen_string_literal: true

RSpec.describe 'picoseg' do
  let(:directories) { ['/etc/picoseg/services.d', '/etc/picoseg/segments.d'] }

  context 'with defaults' do
    let(:node) { 'nobody' }
    let(:hiera_config) { '/dev/null' }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_package('picoseg').with_ensure('installed').without_source.without_provider }
    it { is_expected.to contain_service('picosegd').with_ensure('running').with_enable(true) }

    it 'writes settings that say nothing, judged as settings' do
      is_expected.to contain_file('/etc/picoseg/picoseg.toml')
        .with_content("# Managed by Puppet: changes made here are undone at its next run.\n")
        .with_validate_cmd('/usr/bin/picoseg check --as settings %')
        .with(owner: 'root', group: 'root', mode: '0644')
    end

    it 'removes what it does not know, and no approvals' do
      directories.each do |directory|
        is_expected.to contain_file(directory)
          .with(ensure: 'directory', purge: true, recurse: true, recurselimit: 1, mode: '0755')
          .with_ignore(['*.approvals', '*.sample'])
          .without_force
      end
    end

    it 'never removes lists' do
      is_expected.to contain_file('/etc/picoseg/lists').with_ensure('directory').without_purge.without_recurse
    end

    it 'goes from the package over the files to the daemon, and applies last' do
      is_expected.to contain_class('picoseg::install').that_comes_before('Class[picoseg::config]')
      is_expected.to contain_class('picoseg::config').that_comes_before('Class[picoseg::daemon]')
      is_expected.to contain_exec('picoseg apply').that_requires('Service[picosegd]')
    end

    it 'has the units at boot that belong to the daemon' do
      ['picoseg-early', 'picoseg-exec'].each { |unit| is_expected.to contain_service(unit).with_enable(true).without_ensure }
    end

    it 'applies only where files and what is in force differ' do
      is_expected.to contain_exec('picoseg apply')
        .with_unless('picoseg plan --exit-code || exit 1').with_provider('shell').without_refreshonly
    end

    it 'lets nothing restart the daemon' do
      is_expected.not_to contain_service('picosegd').that_subscribes_to('File[/etc/picoseg/picoseg.toml]')
      expect(catalogue.resource('Service[picosegd]')[:restart]).to be_nil
      notified = catalogue.resources.select { |one| one[:notify] || one[:subscribe] }
      expect(notified.map(&:to_s)).to eq([])
    end
  end

  context 'with settings' do
    let(:params) do
      {
        'paths' => { 'services' => '/srv/services', 'lists' => '/srv/lists' },
        'enforcement' => { 'mode' => 'observe', 'priority' => -20, 'protect' => false },
        'failsafe' => { 'ports' => [], 'from' => ['0.0.0.0/0'] },
        'attempts' => { 'log_rate' => '10/second' },
        'approval' => { 'required' => ['security'], 'roles' => { 'security' => ['ciso@example.com'], 'a b' => ['x'] } },
        'metrics' => { 'listen' => '' },
        'notify_command' => ['/usr/local/bin/tell', 'say "it"'],
      }
    end

    it 'writes every table, keys in order' do
      is_expected.to contain_file('/etc/picoseg/picoseg.toml').with_content(<<~'TOML')
        # Managed by Puppet: changes made here are undone at its next run.

        [paths]
        lists = "/srv/lists"
        services = "/srv/services"

        [enforcement]
        mode = "observe"
        priority = -20
        protect = false

        [failsafe]
        from = ["0.0.0.0/0"]
        ports = []

        [attempts]
        log_rate = "10/second"

        [approval]
        required = ["security"]
        roles = { security = ["ciso@example.com"], "a b" = ["x"] }

        [metrics]
        listen = ""

        [notify]
        command = ["/usr/local/bin/tell", "say \"it\""]
      TOML
    end

    it 'manages the directories that the settings name' do
      is_expected.to contain_file('/srv/services').with_purge(true)
      is_expected.to contain_file('/srv/lists').without_purge
      is_expected.not_to contain_file('/etc/picoseg/services.d')
    end
  end

  context 'without purge' do
    let(:params) { { 'purge' => false } }

    it 'leaves what it does not know' do
      directories.each { |directory| is_expected.to contain_file(directory).with(purge: false, recurse: false) }
      is_expected.to compile.with_all_deps
    end
  end

  context 'with a package of its own' do
    let(:params) { { 'package_source' => '/tmp/picoseg.deb', 'package_provider' => 'dpkg', 'package_ensure' => '0.1.0' } }

    it { is_expected.to contain_package('picoseg').with(source: '/tmp/picoseg.deb', provider: 'dpkg', ensure: '0.1.0') }
  end

  context 'without package and units' do
    let(:params) { { 'package_manage' => false, 'service_manage' => false } }

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to have_package_resource_count(0) }
    it { is_expected.to have_service_resource_count(0) }
    it { is_expected.to have_exec_resource_count(0) }
  end

  context 'with a daemon that is to be stopped' do
    let(:params) { { 'service_ensure' => 'stopped', 'service_enable' => false } }

    it { is_expected.to contain_service('picosegd').with_ensure('stopped').with_enable(false) }
    it { is_expected.not_to contain_exec('picoseg apply') }
  end

  context 'with hashes' do
    let(:params) do
      {
        'services' => { 'pay' => service_parameters },
        'segments' => { 'pay' => { 'subject' => { 'unit' => 'pay.service' } } },
        'lists' => { 'some' => { 'entries' => ['192.0.2.1'] } },
      }
    end

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_picoseg__service('pay').with_owner('owner@example.com') }
    it { is_expected.to contain_picoseg__segment('pay') }
    it { is_expected.to contain_picoseg__list('some') }
  end

  context 'with Hiera' do
    let(:node) { 'web' }
    let(:trusted_facts) { {} }

    it 'has the names of every level, and of each name what the nearest says' do
      is_expected.to compile.with_all_deps
      is_expected.to contain_picoseg__service('everywhere')
      is_expected.to contain_picoseg__service('replaced').with_provider('Node Ltd').without_ticket
      is_expected.to contain_picoseg__segment('web')
      is_expected.to contain_picoseg__list('ranges')
    end
  end

  {
    'paths' => { 'services' => 'relative' },
    'enforcement' => { 'mod' => 'observe' },
    'metrics' => { 'listen' => 9477 },
    'services' => { 'Not A Name' => {} },
    'lists' => { '../up' => {} },
  }.each do |parameter, value|
    context "with #{parameter} => #{value}" do
      let(:params) { { parameter => value } }

      it { is_expected.to compile.and_raise_error(%r{parameter '#{parameter}'}) }
    end
  end
end
