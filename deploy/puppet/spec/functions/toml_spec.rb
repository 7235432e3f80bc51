# frozen_string_literal: true

RSpec.describe 'picoseg::toml' do
  {
    'plain' => '"plain"',
    '' => '""',
    'say "it"' => '"say \"it\""',
    'C:\temp' => '"C:\\\\temp"',
    "a\nb\rc\td" => '"a\u000Ab\u000Dc\u0009d"',
    "\u0000\u001b\u007f" => '"\u0000\u001B\u007F"',
    'Zürich 東京 🦀' => '"Zürich 東京 🦀"',
    "'''" => %("'''"),
    '"""' => '"\"\"\""',
    '#{x} ${y} %{z}' => '"#{x} ${y} %{z}"',
    1 => '1',
    -20 => '-20',
    true => 'true',
    false => 'false',
    [] => '[]',
    ['a', ['b', 1]] => '["a", ["b", 1]]',
    {} => '{}',
    { 'unit' => 'a.service' } => '{ unit = "a.service" }',
    { 'b' => 1, 'a' => [true], 'nothing' => nil } => '{ b = 1, a = [true] }',
    { 'a b' => 'x', '"' => 'y', 'é' => 'z', '' => 'w' } => '{ "a b" = "x", "\"" = "y", "é" = "z", "" = "w" }',
  }.each do |value, text|
    it { is_expected.to run.with_params(value).and_return(text) }
  end

  it { is_expected.to run.with_params(:undef).and_raise_error(ArgumentError) }
  it { is_expected.to run.with_params(1.5).and_raise_error(ArgumentError) }
  it { is_expected.to run.with_params([1.5]).and_raise_error(ArgumentError, %r{Float}) }
  it { is_expected.to run.with_params("\xff").and_raise_error(ArgumentError, %r{UTF-8}) }
end
