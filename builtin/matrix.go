package builtin

// quantMatrix is a product-quantised matrix: each row is cut into parts of dsub
// numbers (the last may be shorter), and each part is one of 256 centroids.
type quantMatrix struct {
	rows, dim int
	dsub      int
	parts     int
	codes     []byte // rows x parts
	// centroids has 256 of each part, one part after the other.
	centroids []float32
	// norms has a code for each row, an index into normCentroids; nil when rows
	// keep their length.
	norms         []byte
	normCentroids []float32
}

func (q *quantMatrix) norm(row int) float32 {
	if q.norms == nil {
		return 1
	}
	return q.normCentroids[q.norms[row]]
}

// addRow adds a row to sum. Products are rounded before they are added, so that
// every processor gives the same answer, with fused instructions or without.
func (q *quantMatrix) addRow(sum []float32, row int) {
	norm := q.norm(row)
	codes := q.codes[row*q.parts : (row+1)*q.parts]
	if q.dsub == 2 && len(sum) == 2*len(codes) {
		q.addPairs(sum, codes, norm)
		return
	}
	for part, code := range codes {
		from := part * q.dsub
		size := min(q.dsub, q.dim-from)
		centroid := q.centroids[256*from+int(code)*size:][:size]
		for i, c := range centroid {
			sum[from+i] += float32(norm * c)
		}
	}
}

// addPairs is addRow for parts of two numbers, which is what fastText makes
// unless told otherwise.
func (q *quantMatrix) addPairs(sum []float32, codes []byte, norm float32) {
	for part, code := range codes {
		centroid := q.centroids[2*(256*part+int(code)):][:2]
		pair := sum[2*part:][:2]
		pair[0] += float32(norm * centroid[0])
		pair[1] += float32(norm * centroid[1])
	}
}

func (q *quantMatrix) dot(row int, hidden []float32) float32 {
	var sum float32
	for part, code := range q.codes[row*q.parts : (row+1)*q.parts] {
		from := part * q.dsub
		size := min(q.dsub, q.dim-from)
		centroid := q.centroids[256*from+int(code)*size:][:size]
		for i, c := range centroid {
			sum += float32(hidden[from+i] * c)
		}
	}
	return sum * q.norm(row)
}

// denseMatrix is a matrix of plain numbers, row after row.
type denseMatrix struct {
	dim  int
	data []float32
}

func (d *denseMatrix) dot(row int, hidden []float32) float32 {
	var sum float32
	values := d.data[row*d.dim:][:len(hidden)]
	for i, h := range hidden {
		sum += float32(h * values[i])
	}
	return sum
}
