package admin

import (
	"reflect"
	"testing"

	"github.com/inferweir/weir/gateway"
)

func TestChartsHaveGapsWhereThereWasNothing(t *testing.T) {
	f := func(values []*float64, now, most string, points ...string) {
		t.Helper()
		c := chartsOf(&gateway.Series{StepS: 1, Rate: make([]float64, len(values)), P50: values})[1]
		got, want := c.Lines[0], line{Name: "p50", Color: "c2", Now: now, Most: most, Points: points}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	v := func(v float64) *float64 { return &v }
	f(nil, "–", "–")
	f([]*float64{nil, nil, nil}, "–", "–")
	f([]*float64{v(10), v(20), v(5)}, "5.00 ms", "20.0 ms", "0.0,50.0 300.0,1.0 600.0,74.5")
	f([]*float64{v(10), v(20), nil, v(20), nil}, "–", "20.0 ms", "0.0,50.0 150.0,1.0", "375.0,1.0 525.0,1.0")
}
