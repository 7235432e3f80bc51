# frozen_string_literal: true

RSpec.describe 'picoseg::segment' do
  let(:title) { 'pay' }
  let(:file) { '/etc/picoseg/segments.d/pay.toml' }

  context 'with a subject' do
    let(:params) { { 'subject' => { 'unit' => 'pay.service' } } }

    it { is_expected.to compile.with_all_deps }

    it 'writes a segment, judged before it counts' do
      is_expected.to contain_file(file)
        .with(ensure: 'file', owner: 'root', mode: '0644', validate_cmd: '/usr/bin/picoseg check --as segment %')
        .with_content(<<~'TOML')
          # Managed by Puppet: changes made here are undone at its next run.
          subject = { unit = "pay.service" }
        TOML
      is_expected.to contain_file(file).that_requires('File[/etc/picoseg/picoseg.toml]')
      is_expected.to contain_file(file).that_comes_before('Exec[picoseg apply]')
    end
  end

  context 'with every key' do
    let(:params) do
      {
        'allow' => [
          { 'ports' => ['5432/tcp'], 'to' => ['10.0.0.0/8'], 'direction' => 'egress' },
          { 'from' => ['10.1.0.0/28'], 'ports' => ['8080/tcp', 'icmp'], 'direction' => 'ingress' },
        ],
        'dns' => false, 'loopback' => true, 'mode' => 'observe', 'subject' => { 'cgroup' => '/a/b' },
      }
    end

    it 'writes them in the order of the documentation' do
      is_expected.to contain_file(file).with_content(<<~'TOML')
        # Managed by Puppet: changes made here are undone at its next run.
        subject = { cgroup = "/a/b" }
        mode = "observe"
        loopback = true
        dns = false

        [[allow]]
        direction = "egress"
        to = ["10.0.0.0/8"]
        ports = ["5432/tcp"]

        [[allow]]
        direction = "ingress"
        from = ["10.1.0.0/28"]
        ports = ["8080/tcp", "icmp"]
      TOML
    end
  end

  ['absent', 'decommissioned'].each do |gone|
    context "with ensure => #{gone}" do
      let(:params) { { 'ensure' => gone } }

      it { is_expected.to contain_file(file).with_ensure('absent').that_comes_before('Exec[picoseg apply]') }
    end
  end

  context 'without a subject' do
    it { is_expected.to compile.and_raise_error(%r{Picoseg::Segment\[pay\]: missing: subject}) }
  end

  {
    'subject' => { 'unit' => 'a.service', 'user' => 'b' },
    'allow' => [{ 'direction' => 'egress', 'from' => ['192.0.2.1'], 'ports' => ['1/tcp'] }],
    'dns' => 'yes',
  }.each do |parameter, value|
    context "with #{parameter} => #{value}" do
      let(:params) { { 'subject' => { 'unit' => 'a.service' } }.merge(parameter => value) }

      it { is_expected.to compile.and_raise_error(%r{parameter '#{parameter}'}) }
    end
  end
end
