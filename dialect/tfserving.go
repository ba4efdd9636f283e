package dialect

// TFServing returns the dialect of TensorFlow Serving's REST API. The row form,
// "instances", can be put together; the column form, "inputs", cannot.
func TFServing() *Dialect {
	at := func(verb string) func(string) (string, bool) {
		return modelBelow("/v1/models/", verb, "/versions/", "/labels/")
	}
	return &Dialect{
		name: "tfserving",
		api:  apiKServe,
		endpoints: []*endpoint{
			{name: "predict", api: apiKServe, match: at(":predict"), request: instanceRequest("/instances"), answers: inferAnswers(), batch: instanceBatch()},
			{name: "classify", api: apiKServe, match: at(":classify"), request: instanceRequest("/examples"), answers: inferAnswers()},
			{name: "regress", api: apiKServe, match: at(":regress"), request: instanceRequest("/examples"), answers: inferAnswers()},
		},
	}
}
