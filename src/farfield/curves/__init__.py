"""Learning curves: reading runs, forecasting where they end, and checking the forecast by hiding the far end."""
