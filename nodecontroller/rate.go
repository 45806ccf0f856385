package nodecontroller

import (
	"fmt"
	"strconv"
	"strings"
)

// Rate is bytes a second in a configuration, written as links are sold, in bits: "1gbit",
// "500mbit", or "0" for no limit.
type Rate uint64

// rateUnits are powers of 1000, as with links.
var rateUnits = map[string]float64{"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}

// UnmarshalText reads a number with a unit.
func (r *Rate) UnmarshalText(text []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(text)))
	number := strings.TrimRight(s, "bitkmg")
	unit, ok := rateUnits[s[len(number):]]
	if s == "0" {
		unit, ok = 1, true
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if bytes := v * unit / 8; err != nil || !ok || v != 0 && !(bytes >= 1000 && bytes <= 1e12) {
		return fmt.Errorf("%q is no rate of a link: write 1gbit, 500mbit, or 0 for no limit", text)
	}
	*r = Rate(v * unit / 8)
	return nil
}
