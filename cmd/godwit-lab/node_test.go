package main

import (
	"slices"
	"testing"
)

func TestCommandForANodeNeedsNoDashes(t *testing.T) {
	tests := map[string]struct{ args, want []string }{
		"dashes":      {[]string{"a", "--", "ls", "-l"}, []string{"ls", "-l"}},
		"none":        {[]string{"a", "ls", "-l"}, []string{"ls", "-l"}},
		"its own":     {[]string{"a", "--", "sh", "--", "x"}, []string{"sh", "--", "x"}},
		"dashes only": {[]string{"a", "--"}, nil},
	}
	for name, tt := range tests {
		var got []string
		cmd := newExec()
		if err := cmd.ParseFlags(tt.args); err != nil {
			t.Fatal(err)
		}
		got = commandOf(cmd.Flags().Args())
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
