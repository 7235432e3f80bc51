# frozen_string_literal: true

RSpec.describe 'picoseg::list' do
  let(:title) { 'Ranges.of_1' }
  let(:file) { '/etc/picoseg/lists/Ranges.of_1.txt' }

  context 'with entries' do
    let(:params) { { 'entries' => ['192.0.2.0/24', 'api.example.com'] } }
    let(:pre_condition) do
      <<~PUPPET
        picoseg::segment { 'pay':
          subject => { 'unit' => 'pay.service' },
          allow   => [{ 'direction' => 'egress', 'to' => ['@Ranges.of_1'], 'ports' => ['1/tcp'] }],
        }
      PUPPET
    end

    it { is_expected.to compile.with_all_deps }

    it 'is there before those that refer to it are judged' do
      is_expected.to contain_file(file)
        .with(ensure: 'file', mode: '0644', validate_cmd: '/usr/bin/picoseg check --as list %')
        .with_content("# Managed by Puppet: changes made here are undone at its next run.\n192.0.2.0/24\napi.example.com\n")
      is_expected.to contain_file(file).that_requires('File[/etc/picoseg/picoseg.toml]')
      is_expected.not_to contain_file(file).that_comes_before('Service[picosegd]')
      is_expected.to contain_file(file).that_comes_before('File[/etc/picoseg/segments.d/pay.toml]')
    end
  end

  context 'with ensure => absent' do
    let(:params) { { 'ensure' => 'absent' } }

    it { is_expected.to contain_file(file).with_ensure('absent') }
  end

  [nil, [], ["192.0.2.1\n192.0.2.2"], ['192.0.2.1 # home']].each do |bad|
    context "with entries => #{bad.inspect}" do
      let(:params) { { 'entries' => bad }.compact }

      it { is_expected.to compile.and_raise_error(%r{entries}) }
    end
  end

  context 'with a name that leads elsewhere' do
    let(:title) { '../up' }
    let(:params) { { 'entries' => ['192.0.2.1'] } }

    it { is_expected.to compile.and_raise_error(%r{Picoseg::Listname}) }
  end
end
